"""The base class of all object stores: keeps the access, retries requests, and ends requests in flight.

Each store derives from `ObjectStore`, and adds how to sign, how to list, and what its errors mean.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic

from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.request_rate import RequestRates
from runai_model_streamer.io.http.retries import Attempts, Judgement, retry
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.access import CurrentAccess
from runai_model_streamer.io.objects.requests import A, A_co, Remote
from runai_model_streamer.io.objects.source import PREFIX_BYTES, ObjectSource
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.ranges import ByteRange


@dataclass(frozen=True, slots=True)
class FailedRequest(Generic[A_co]):
    """A request that failed for good."""

    path: str
    """The object or prefix."""
    span: ByteRange | None
    """The range; None for a listing."""
    attempts: Attempts
    access: A_co | None
    """What the last attempt was made with; None if there was none."""
    opening: bool
    """The store has not answered any request yet."""


class ObjectStore(ABC, Generic[A]):
    """One set of settings and credentials for object storage, which all its sources share. Thread safe.

    The first request makes the access; `close` closes its connections.

    Args:
        make: makes the access; see `CurrentAccess`.
        max_retries: attempts after the first.
        setup: times imports, the search for credentials, and connecting.
    """

    upload = ""
    """Hint for a log line about objects without a checksum: how to upload them with one."""

    def __init__(self, make: Callable[[], A], max_retries: int, setup: SetupClock) -> None:
        self._lock = threading.Lock()
        self._setup = setup
        self._access = CurrentAccess(make, setup)
        self._flights: set[Flights] = set()
        self._stopped = False
        self._max_retries = max_retries
        self.retries = 0
        """Number of retries so far."""
        self.rates = RequestRates()
        """Pace requests if a bucket or host refuses too many, and count the refusals."""
        self.answered = False
        """The store has answered a request, for any of its objects."""

    def open(
        self, path: str, version: tuple[int, str | None] | None = None, beginning: int = PREFIX_BYTES
    ) -> ObjectSource[A]:
        """Open an object with one request.

        Args:
            path: the URL.
            version: size and ETag if another rank has sent them: then no request is made.
            beginning: bytes to fetch with that request; at least one.

        Raises:
            ArgumentError: the URL does not name an object.
            IsDirectoryError: the URL ends in a slash.
            MissingDependencyError: a package for this store is not installed.
            InterruptedReadError: `interrupt` was called.
            StreamerError: what `ObjectSource.read_into` raises, and errors of settings and credentials.
        """
        remote = self.remote(path)
        flights = self.flights()
        try:
            return ObjectSource(self, self.shown(path), remote, flights, version, beginning)
        except BaseException:
            self.forget(flights)
            raise

    @abstractmethod
    def remote(self, path: str) -> Remote[A]:
        """Return the object that a URL names.

        Raises:
            ArgumentError: the URL does not name an object.
            IsDirectoryError: the URL ends in a slash.
        """

    def local(self, path: str) -> str | None:  # noqa: ARG002 - a store may have copies
        """Return the path of a local copy of an object, to be read in its place; None if there is none."""
        return None

    @abstractmethod
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """List the wanted objects under a prefix, sorted by name.

        Raises:
            ArgumentError: the URL does not name a folder.
            NotFoundError: nothing has the prefix.
            StreamerError: as `open`.
        """

    @abstractmethod
    def key_of(self, path: str) -> str:
        """Return the prefix that patterns see before each name of a listing; "" for a whole store.

        Raises:
            ArgumentError: the URL does not name a folder.
        """

    def known_endpoint(self, path: str) -> str | None:  # noqa: ARG002 - of stores with several
        """Return what tells stores apart that have equal URLs: the endpoint in use, or "" for the usual one.

        None: only `endpoint` knows.
        """
        return ""

    def endpoint(self, path: str) -> str:
        """Return the same once a request has been made.

        Raises:
            StreamerError: as `open`.
        """
        return self.known_endpoint(path) or ""

    def shown(self, path: str) -> str:
        """Return the URL as messages show it."""
        return path

    def flights(self) -> Flights:
        """Make flights that `interrupt` ends. Pass them to `forget` when they are over."""
        flights = Flights()
        with self._lock:
            self._flights.add(flights)
            if self._stopped:
                flights.stop()
        return flights

    def retry(self, flights: Flights, path: str, span: ByteRange | None, attempt: Callable[[A, Flight], None]) -> None:
        """Call `attempt` until it succeeds; see `retries.retry`. `path` and `span` are for messages.

        Args:
            flights: its `stop` ends the retries.
            path: the object or prefix that is read or listed.
            span: the range that is read; None for a listing.
            attempt: makes one request.

        Raises:
            InterruptedReadError: `flights` was stopped.
            StreamerError: the failure of the last attempt.
        """
        # No nested `def`: Python would evaluate its annotations for each range.
        retry(
            self,
            flights,
            path,
            span,
            partial(self._timed, attempt),
            lambda error, attempts, access: self.translated(
                error, FailedRequest(path, span, attempts, access, opening=not self.answered)
            ),
        )

    def _timed(self, attempt: Callable[[A, Flight], None], access: A, flight: Flight) -> None:
        try:
            attempt(access, flight)
        finally:
            if flight.connect_seconds:
                self._setup.connected(flight.connect_seconds)

    @abstractmethod
    def judge(self, error: Exception) -> Judgement:
        """Say whether to go on after this error, and release its references to the caller's buffer."""

    @abstractmethod
    def translated(self, error: Exception, failed: FailedRequest[A]) -> Exception:
        """Make the package's error for the last failure of a request."""

    @property
    def max_retries(self) -> int:
        """Attempts after the first. This and the next methods are for `retry`."""
        return self._max_retries

    def access(self) -> A:
        """Return the access in use."""
        return self._access.get()

    def renew(self, refused: A) -> None:
        """Read the credentials again before the next request. Once for all threads."""
        self._access.renew(refused)

    def count_retry(self) -> None:
        """Count one retry."""
        with self._lock:
            self.retries += 1

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
