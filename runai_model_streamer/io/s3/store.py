"""S3 and compatible stores: one client for all objects of a load, and what is asked again.

Credentials, signing, endpoints and redirects are botocore's (`signing`); how a body reaches the buffer is the
transport's; what an error means is `errors`'. botocore is imported with the first request, not with this module.
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
from runai_model_streamer.io.s3.errors.meaning import Circumstances
from runai_model_streamer.io.s3.location import Location
from runai_model_streamer.io.s3.source import S3Source
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.ranges import ByteRange


class S3Store:
    """One way of access to object storage, with a client that all its sources share.

    Thread safe. The client is made with the first request; `close` gives its connections back.
    """

    def __init__(
        self, config: S3Config, credentials: S3Credentials | None, connections: int, setup: SetupClock | None = None
    ) -> None:
        """`connections` is the number of reads at once for which connections are kept open; `setup` times the rest."""
        self._setup = setup = setup or SetupClock()
        self.config = config
        self._lock = threading.Lock()
        self._access = CurrentAccess(lambda: make_access(config, credentials, connections, setup), setup)
        self._flights: set[Flights] = set()
        self._stopped = False
        self.retries = 0
        """Requests that were made again."""
        self.refusals = 0
        """Requests that were refused for their number, or not answered in time."""
        self.answered = False
        """Something has come from this store, for whichever of its objects."""

    def open(self, path: str, version: tuple[int, str | None] | None = None) -> "S3Source":
        """Open s3://bucket/key, its key as it is written, in one request; in none if its size and ETag are known.

        Raises:
            ArgumentError: not a URL of this form, or no name for a bucket.
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
        """Make attempts until one succeeds; see `retries.retry`. `path`, `bucket` and `span` are for messages.

        Args:
            flights: whose `stop` ends this.
            path: that is read or listed.
            bucket: in which it is.
            span: that is read; None where keys are listed.
            attempt: one request.

        Raises:
            InterruptedReadError: `flights` was stopped.
            StreamerError: the failure of the last attempt.
        """

        def translated(error: Exception, attempts: Attempts, access: Access | None) -> Exception:
            opening = not self.answered
            at = Circumstances(path, bucket, span, attempts.count, attempts.seconds, self.config.timeout, opening)
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
        """Attempts after the first. For `retry`, as what follows."""
        return self.config.max_retries

    def access(self) -> Access:
        """The client in use."""
        return self._access.get()

    def renew(self, refused: Access) -> None:
        """Read the credentials anew with the next request, unless another thread has seen to that."""
        self._access.renew(refused)

    def count_retry(self) -> None:
        """A request is made again."""
        with self._lock:
            self.retries += 1

    def count_refusal(self) -> None:
        """A request was refused for the number of requests, or not answered in time."""
        with self._lock:
            self.refusals += 1

    def judge(self, error: Exception) -> Judgement:
        """Whether to go on after this. The error no longer holds the caller's buffer."""
        translation.release_frames(error)
        return translation.judge(error)

    @property
    def transport(self) -> str | None:
        """What moves the bytes; None before the first request."""
        return self._access.transport

    def forget(self, flights: Flights) -> None:
        """A source has closed. For sources."""
        with self._lock:
            self._flights.discard(flights)

    def interrupt(self) -> None:
        """Make all reads and openings, in flight and to come, raise `InterruptedReadError` soon. From any thread.

        Within milliseconds, also while a request connects or waits for an answer. Only reads that wait for a host's
        name to be resolved, or for a credential provider, last until the timeouts of those.
        """
        with self._lock:
            self._stopped = True
            flights = list(self._flights)
        self._access.stop()
        for each in flights:
            each.stop()

    def close(self) -> None:
        """Close all connections. What was opened here can no longer be read. Idempotent."""
        self.interrupt()
        self._access.close()
