"""One object of a store, as a `Source`: opened with its first bytes, and read in ranges of that version."""

import logging
from collections.abc import Callable
from typing import Final, Protocol

from runai_model_streamer.errors import TruncatedError, Where
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Version, total_size, verify
from runai_model_streamer.io.http.failures import wrong_length
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.transport import Reply
from runai_model_streamer.io.s3 import checksums
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.location import Location
from runai_model_streamer.io.s3.requests import ObjectRequests
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

PREFIX_BYTES: Final = 256 << 10
"""Bytes asked for when an object is opened. The header of nearly every safetensors file is shorter, so that one round
trip brings the size, the ETag and the header; and a refused GET explains itself in a body, which HEAD has not."""


class Store(Protocol):
    """What a source needs of its store; see `S3Store`."""

    def retry(
        self,
        flights: Flights,
        path: str,
        bucket: str,
        span: ByteRange | None,
        attempt: Callable[[Access, Flight], None],
    ) -> None:
        """Make attempts until one succeeds."""
        ...

    def forget(self, flights: Flights) -> None:
        """A source has closed."""
        ...


class S3Source:
    """An object of a store; see `Source`. Made by `S3Store.open`."""

    kind = SourceKind.OBJECT
    alignment = 1
    verified_by: str | None = None
    in_order = False
    streams: int | None = None

    def __init__(
        self, store: Store, path: str, location: Location, flights: Flights, version: tuple[int, str | None] | None
    ) -> None:
        self._store = store
        self._path = path
        self._location = location
        self._flights = flights
        self._size, etag = version or (0, None)
        self._prefix: bytearray | None = None
        self._requests = ObjectRequests(path, location, Version(etag))
        if version is None:
            self._retry(ByteRange(0, PREFIX_BYTES), self._fetch_prefix)
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
        """Do nothing: nothing is verified here."""

    def open_file(self) -> None:
        """None: an object is no local file."""

    def origin(self, offset: int, length: int) -> Origin:  # noqa: ARG002 - wherever in the object
        """`Origin.OBJECT`."""
        return Origin.OBJECT

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` with the bytes from `offset` on, in one request and as many retries as it takes.

        The first `PREFIX_BYTES` are at hand from the opening, until a read goes beyond them.
        Returns `Origin.OBJECT`.

        Raises:
            TruncatedError: the object is shorter; nothing was asked for.
            SourceChangedError: the object is no longer the one that was opened.
            AccessDeniedError: and `CredentialsError`, when credentials expire and cannot be renewed.
            NotFoundError: the object was deleted.
            StorageTimeoutError, StorageUnreachableError: no byte for the timeout, or no connection, in every attempt.
            InterruptedReadError: `interrupt` or `close` was called.
            ReadError: anything else that the store, or the way to it, did.
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
        if span.size:
            self._prefix = None
            self._fetch(span, buffer[-span.size :])
        return Origin.OBJECT

    def checksum(self) -> Checksum | None:
        """What the store has on record of the whole object's bytes, asked for with one request; None: nothing of use.

        Raises:
            ReadError: as `read_into`.
        """
        found: list[Checksum | None] = []
        self._retry(
            ByteRange(0, self._size),
            lambda access, _: found.append(checksums.ask(access.client, self._location, self.version)),
        )
        return found[-1]

    def interrupt(self) -> None:
        """Make reads in flight and to come raise `InterruptedReadError`. From any thread; see `S3Store.interrupt`."""
        self._flights.stop()

    def close(self) -> None:
        """Give the prefix's memory back. The connections are the store's. Idempotent."""
        self._flights.stop()
        self._store.forget(self._flights)
        self._prefix = None

    def _fetch_prefix(self, access: Access, flight: Flight) -> None:
        prefix = bytearray(PREFIX_BYTES)
        asked = ByteRange(0, PREFIX_BYTES)
        try:
            reply = self._requests.ask(access, flight, asked, memoryview(prefix))
        except Exception as error:
            # No range begins within an empty object: stores refuse it, and a few answer 200 with nothing.
            if translation.is_beyond_end(error):
                return
            raise
        total = total_size(reply, asked)
        span = ByteRange(0, min(PREFIX_BYTES, total))
        version = Version.of(reply)
        if total:
            verify(reply, span, total, version)
            _check_complete(reply, span)
        del prefix[span.size :]
        self._size, self._prefix = total, prefix
        self._requests.version = version

    def _fetch(self, span: ByteRange, view: memoryview) -> None:
        landed = 0

        def fetch_rest(access: Access, flight: Flight) -> None:
            nonlocal landed
            rest = ByteRange(span.start + landed, span.end)
            reply = self._requests.ask(access, flight, rest, view[landed:])
            verify(reply, rest, self._size, self._requests.version)
            landed += reply.landed
            _check_complete(reply, rest)

        self._retry(span, fetch_rest)

    def _retry(self, span: ByteRange, attempt: Callable[[Access, Flight], None]) -> None:
        self._store.retry(self._flights, self._path, self._location.bucket, span, attempt)


def _check_complete(reply: Reply, span: ByteRange) -> None:
    """Raise what kept bytes of a range from coming. What fails when all are there does not matter."""
    if reply.landed != span.size:
        reply.check()
        raise wrong_length(reply.landed, span.size)
