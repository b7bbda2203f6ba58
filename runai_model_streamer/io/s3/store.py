"""Opens objects of an S3-compatible store, with one client for a load, and retries their requests.

`signing` leaves credentials, endpoints and redirects to botocore. A transport brings the body into the buffer. `errors`
explains failures. botocore is imported with the first request, not with this module.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

from runai_model_streamer.config import S3Config
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.retries import Attempts, Judgement, retry
from runai_model_streamer.io.s3.access import Access, CurrentAccess, make_access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.location import Location
from runai_model_streamer.io.s3.source import S3Source
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.ranges import ByteRange


class S3Store:
    """One set of settings and credentials for object storage, with a client that all its sources share.

    Thread safe. The first request makes the client; `close` closes its connections.
    """

    def __init__(
        self, config: S3Config, credentials: S3Credentials | None, connections: int, setup: SetupClock | None = None
    ) -> None:
        """`connections` is the maximum number of concurrent reads: one connection is kept for each.

        `setup` times imports, the search for credentials, and connecting.
        """
        self._setup = setup = setup or SetupClock()
        self.config = config
        self._lock = threading.Lock()
        self._access = CurrentAccess(lambda: make_access(config, credentials, connections, setup), setup)
        self._flights: set[Flights] = set()
        self._stopped = False
        self.retries = 0
        """Number of retries so far."""
        self.refusals = 0
        """Number of requests refused for their number, or not answered in time."""
        self.answered = False
        """The store has answered a request, for any of its objects."""

    def open(self, path: str, version: tuple[int, str | None] | None = None) -> "S3Source":
        """Open s3://bucket/key with one request. The key is used as written.

        Args:
            path: the URL.
            version: size and ETag if they are already known, from another rank: then no request is made.

        Raises:
            ArgumentError: not a URL of this form, or not a bucket name.
            IsDirectoryError: the key ends in a slash.
            MissingDependencyError: boto3 is not installed.
            InterruptedReadError: `interrupt` was called.
            StreamerError: what `S3Source.read_into` raises, and errors of settings and credentials.
        """
        location = Location.of_object(path)
        flights = Flights()
        with self._lock:
            self._flights.add(flights)
            if self._stopped:
                flights.stop()
        try:
            return S3Source(self, path, location, flights, version)
        except BaseException:
            self.forget(flights)
            raise

    def retry(
        self,
        flights: Flights,
        path: str,
        bucket: str,
        span: ByteRange | None,
        attempt: Callable[[Access, Flight], None],
    ) -> None:
        """Call `attempt` until it succeeds; see `retries.retry`. `path`, `bucket` and `span` are for messages.

        Args:
            flights: its `stop` ends the retries.
            path: the object or prefix that is read or listed.
            bucket: its bucket.
            span: the range that is read; None for a listing.
            attempt: makes one request.

        Raises:
            InterruptedReadError: `flights` was stopped.
            StreamerError: the failure of the last attempt.
        """

        def translated(error: Exception, attempts: Attempts, access: Access | None) -> Exception:
            opening = not self.answered
            at = RequestContext(path, bucket, span, attempts.count, attempts.seconds, self.config.timeout, opening)
            if access is not None:
                at = replace(at, unsigned=access.unsigned, provenance=access.provenance, secrets=access.secrets)
            return translation.translated(error, at)

        def timed(access: Access, flight: Flight) -> None:
            try:
                attempt(access, flight)
            finally:
                self._setup.connected(flight.connect_seconds)

        retry(self, flights, path, span, timed, translated)

    @property
    def max_retries(self) -> int:
        """Attempts after the first. This and the next methods are for `retry`."""
        return self.config.max_retries

    def access(self) -> Access:
        """Return the client in use."""
        return self._access.get()

    def renew(self, refused: Access) -> None:
        """Read the credentials again before the next request. Once for all threads."""
        self._access.renew(refused)

    def count_retry(self) -> None:
        """Count one retry."""
        with self._lock:
            self.retries += 1

    def count_refusal(self) -> None:
        """A request was refused for the number of requests, or not answered in time."""
        with self._lock:
            self.refusals += 1

    def judge(self, error: Exception) -> Judgement:
        """Say whether to go on after this error, and release its references to the caller's buffer."""
        translation.release_frames(error)
        return translation.judge(error)

    @property
    def transport(self) -> str | None:
        """Name of the transport; None before the first request."""
        return self._access.transport

    def forget(self, flights: Flights) -> None:
        """Drop a source that has closed. Called by sources."""
        with self._lock:
            self._flights.discard(flights)

    def interrupt(self) -> None:
        """Make all current and later reads and openings raise `InterruptedReadError` soon. From any thread.

        That takes milliseconds, even while a request connects or waits for an answer. Only reads that wait for name
        resolution or for a credential provider last until the timeouts of those.
        """
        with self._lock:
            self._stopped = True
            flights = list(self._flights)
        self._access.stop()
        for each in flights:
            each.stop()

    def close(self) -> None:
        """Close all connections. Sources opened here can no longer be read. Idempotent."""
        self.interrupt()
        self._access.close()
