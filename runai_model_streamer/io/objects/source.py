"""One object of a store, as a `Source`. Opening it fetches its first bytes; reads are ranges of that version."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol

from runai_model_streamer.errors import TruncatedError, Where
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Version, total_size, verify
from runai_model_streamer.io.http.failures import wrong_length
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.transport import Reply
from runai_model_streamer.io.objects.requests import A, A_co, ObjectRequests, Remote
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

PREFIX_BYTES: Final = 256 << 10
"""Bytes fetched when an object is opened. Nearly every safetensors header is shorter, so that one round trip brings the
size, the ETag and the header. A refused GET has a body with the reason; a refused HEAD has none."""


class Store(Protocol[A_co]):
    """What a source needs of its store; see `ObjectStore`."""

    def retry(
        self, flights: Flights, path: str, span: ByteRange | None, attempt: Callable[[A_co, Flight], None]
    ) -> None:
        """Make attempts until one succeeds."""
        ...

    def forget(self, flights: Flights) -> None:
        """Drop a source that has closed."""
        ...


class ObjectSource(Generic[A]):
    """An object of a store, as a `Source`. Made by `ObjectStore.open`."""

    kind = SourceKind.OBJECT
    alignment = 1
    verified_by: str | None = None
    in_order = False
    local: Sequence[ByteRange] | None = None
    streams: int | None = None
    way: str | None = None

    def __init__(
        self,
        store: Store[A],
        path: str,
        remote: Remote[A],
        flights: Flights,
        version: tuple[int, str | None] | None,
        beginning: int = PREFIX_BYTES,
    ) -> None:
        self._store = store
        self._path = path
        self._remote = remote
        self._flights = flights
        self._size, etag = version or (0, None)
        self._prefix: bytearray | None = None
        self._requests = ObjectRequests(path, remote, Version(etag))
        if version is None:
            first = ByteRange(0, beginning)
            self._retry(first, lambda access, flight: self._fetch_prefix(access, flight, first))
        _log.debug("%s: %d bytes, ETag %s", path, self._size, self.version)

    @property
    def path(self) -> str:
        """The URL as the user wrote it."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes in the object when it was opened."""
        return self._size

    @property
    def version(self) -> str | None:
        """The ETag of the object when it was opened; None where the store gave none."""
        return self._requests.version.etag

    def skip_verification(self) -> None:
        """Do nothing: this source verifies nothing."""

    def open_file(self) -> None:
        """Return None: an object is not a local file."""

    def origin(self, offset: int, length: int) -> Origin:  # noqa: ARG002 - the same for the whole object
        """Return `Origin.OBJECT`."""
        return Origin.OBJECT

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` with the bytes from `offset` on. Takes one request, and retries.

        Opening fetched the first bytes. They are kept until a read goes beyond them.

        Returns:
            `Origin.OBJECT`.

        Raises:
            TruncatedError: the object is shorter; no request was made.
            SourceChangedError: the object is no longer the one that was opened.
            AccessDeniedError: the store refuses; `CredentialsError` if credentials expired and cannot be renewed.
            NotFoundError: the object was deleted.
            StorageTimeoutError, StorageUnreachableError: no byte within the timeout, or no connection, in each attempt.
            InterruptedReadError: `interrupt` or `close` was called.
            ReadError: any other fault of the store or of the way to it.
        """
        span = ByteRange(offset, offset + len(buffer))
        if span.end > self._size:
            raise TruncatedError(
                f"{span} cannot be read: the object has {self._size} bytes",
                where=Where(self._path, span),
                remedy="Upload it again if it should have more.",
                sep=". ",
            )
        prefix = self._prefix
        if prefix is not None:
            at_hand = memoryview(prefix)[offset : span.end]
            buffer[: len(at_hand)] = at_hand
            span = ByteRange(offset + len(at_hand), span.end)
        if left := span.end - span.start:
            self._prefix = None
            self._fetch(span, buffer[-left:])
        return Origin.OBJECT

    def checksum(self) -> Checksum | None:
        """Request the store's checksum of the whole object; None if it has none of use.

        Raises:
            ReadError: as `read_into`.
        """
        found: list[Checksum | None] = []
        self._retry(
            ByteRange(0, self._size),
            lambda access, flight: found.append(self._remote.checksum(access, flight, self._requests.version)),
        )
        return found[-1]

    def interrupt(self) -> None:
        """Make current and later reads raise `InterruptedReadError`. From any thread; see `ObjectStore.interrupt`."""
        self._flights.stop()

    def close(self) -> None:
        """End reads and free the prefix. The connections belong to the store. Idempotent."""
        self._flights.stop()
        self._store.forget(self._flights)
        self._prefix = None

    def _fetch_prefix(self, access: A, flight: Flight, asked: ByteRange) -> None:
        prefix = bytearray(asked.size)
        try:
            reply = self._requests.ask(access, flight, asked, memoryview(prefix))
        except Exception as error:
            # An empty object has no range: most stores refuse it with 416, and a few answer 200 without a body.
            if self._remote.is_beyond_end(error):
                return
            raise
        total = total_size(reply, asked)
        span = ByteRange(0, min(asked.size, total))
        version = Version.of(reply)
        if total:
            verify(reply, span, total, version)
            _check_complete(reply, span)
        del prefix[span.size :]
        self._size, self._prefix = total, prefix
        self._requests.opened(version, reply)

    def _fetch(self, span: ByteRange, view: memoryview) -> None:
        landed = 0

        def fetch_rest(access: A, flight: Flight) -> None:
            nonlocal landed
            rest = ByteRange(span.start + landed, span.end) if landed else span
            reply = self._requests.ask(access, flight, rest, view[landed:])
            verify(reply, rest, self._size, self._requests.version)
            landed += reply.landed
            _check_complete(reply, rest)

        self._retry(span, fetch_rest)

    def _retry(self, span: ByteRange, attempt: Callable[[A, Flight], None]) -> None:
        self._store.retry(self._flights, self._path, span, attempt)


def _check_complete(reply: Reply, span: ByteRange) -> None:
    """Raise if bytes of a range are missing. A failure after the last byte does not matter."""
    if reply.landed != span.end - span.start:
        reply.check()
        raise wrong_length(reply.landed, span.size)
