"""Objects of S3 and compatible stores: where they are, how they are asked for, and what is asked again.

Credentials, signing, endpoints and redirects are botocore's (`signing`); how a body reaches the buffer is the
transport's; what an error means is `errors`'. botocore is imported with the first request, not with this module.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import ArgumentError, IsDirectoryError, TruncatedError, Where
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import total_size, verify
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.transport import BodyLengthError, Reply, SignedRequest
from runai_model_streamer.io.s3 import checksums
from runai_model_streamer.io.s3.access import Access, CurrentAccess, make_access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.retries import persist
from runai_model_streamer.io.s3.signing import sign
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

PREFIX_BYTES: Final = 256 << 10
"""Bytes asked for when an object is opened. The header of nearly every safetensors file is shorter, so that one round
trip brings the size, the ETag and the header; and a refused GET explains itself in a body, which HEAD has not."""


class S3Store:
    """One way of access to object storage, with a client that all its sources share.

    Thread safe. The client is made with the first request; `close` gives its connections back.
    """

    def __init__(self, config: S3Config, credentials: S3Credentials | None, connections: int) -> None:
        """`connections` is the number of reads at once for which connections are kept open."""
        self.config = config
        self._lock = threading.Lock()
        self._access = CurrentAccess(lambda: make_access(config, credentials, connections))
        self._flights: set[Flights] = set()
        self._stopped = False
        self.retries = 0
        """Requests that were made again."""

    def open(self, path: str, version: tuple[int, str | None] | None = None) -> "S3Source":
        """Open s3://bucket/key, its key as it is written, in one request; in none if its size and ETag are known.

        Raises:
            ArgumentError: not a URL of this form, or no name for a bucket.
            IsDirectoryError: the key ends in a slash.
            MissingDependencyError: boto3 is not installed.
            InterruptedReadError: `interrupt` was called.
            StreamerError: what `S3Source.read_into` raises, and errors of settings and credentials.
        """
        bucket, key = _split_url(path)
        flights = Flights()
        with self._lock:
            self._flights.add(flights)
            if self._stopped:
                flights.stop()
        try:
            return S3Source(self, path, bucket, key, flights, version)
        except BaseException:
            self.forget(flights)
            raise

    def access(self) -> Access:
        """The client in use. For sources."""
        return self._access.get()

    def renew(self, refused: Access) -> None:
        """Read the credentials anew with the next request, unless another thread has seen to that. For sources."""
        self._access.renew(refused)

    def count_retry(self) -> None:
        """A request is made again. For sources."""
        with self._lock:
            self.retries += 1

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


class S3Source:
    """An object of a store; see `Source`. Made by `S3Store.open`."""

    kind = SourceKind.OBJECT
    alignment = 1
    verified_by: str | None = None
    in_order = False
    streams: int | None = None

    def __init__(
        self, store: S3Store, path: str, bucket: str, key: str, flights: Flights, version: tuple[int, str | None] | None
    ) -> None:
        self._store = store
        self._path = path
        self._bucket = bucket
        self._key = key
        self._flights = flights
        self._size, self.etag = version or (0, None)
        self._prefix: bytearray | None = None
        self._signed: tuple[Access, SignedRequest] | None = None
        self._opened = False
        if version is None:
            self._persist(ByteRange(0, PREFIX_BYTES), self._fetch_prefix)
        self._opened = True
        _log.debug("%s: %d bytes, ETag %s", path, self._size, self.etag)

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
        """The ETag; None where the store gave none."""
        return self.etag

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
        bucket, key = self._bucket, self._key
        self._persist(
            ByteRange(0, self._size),
            lambda access, _: found.append(checksums.ask(access.client, bucket, key, self.etag)),
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
        try:
            reply = self._ask(access, flight, ByteRange(0, PREFIX_BYTES), memoryview(prefix))
        except Exception as error:
            # No range begins within an empty object: stores refuse it, and a few answer 200 with nothing.
            if translation.is_beyond_end(error):
                return
            raise
        if reply.status == 200 and reply.headers.get("content-length") == "0":
            return
        total = total_size(reply)
        span = ByteRange(0, min(PREFIX_BYTES, total))
        verify(reply, span, total)
        _check_complete(reply, span)
        del prefix[span.size :]
        self._size, self.etag, self._prefix = total, reply.headers.get("etag"), prefix

    def _fetch(self, span: ByteRange, view: memoryview) -> None:
        landed = 0

        def fetch_rest(access: Access, flight: Flight) -> None:
            nonlocal landed
            rest = ByteRange(span.start + landed, span.end)
            reply = self._ask(access, flight, rest, view[landed:])
            verify(reply, rest, self._size, self.etag)
            landed += reply.landed
            _check_complete(reply, rest)

        self._persist(span, fetch_rest)

    def _ask(self, access: Access, flight: Flight, span: ByteRange, view: memoryview) -> Reply:
        """Ask once for a range, or twice where the first answer tells the bucket's region. No answer is an error."""
        # A weak ETag never matches.
        etag = self.etag if self.etag and not self.etag.startswith("W/") else None
        request = self._request(access)
        refused: list[Reply] = []
        while True:
            reply = access.transport.get(request, span, etag, view, flight)
            if reply.status is None:
                reply.check()
            elif reply.status < 300:
                return reply
            refused.append(reply)
            request = sign(access.client, self._bucket, self._key, refused)
            self._signed = access, request

    def _request(self, access: Access) -> SignedRequest:
        held = self._signed
        if held is not None and held[0] is access and held[1].fresh:
            return held[1]
        request = sign(access.client, self._bucket, self._key)
        self._signed = access, request
        return request

    def _persist(self, span: ByteRange, attempt: Callable[[Access, Flight], None]) -> None:
        opening = not self._opened
        persist(self._store, self._flights, self._path, self._bucket, span, attempt, opening=opening)


def _check_complete(reply: Reply, span: ByteRange) -> None:
    """Raise what kept bytes of a range from coming."""
    reply.check()
    if reply.landed != span.size:
        raise BodyLengthError(reply.landed, span.size)


def _split_url(path: str) -> tuple[str, str]:
    scheme, separator, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not separator or not bucket or not key:
        problem, remedy = f"{path!r} does not name an object", "write s3://bucket/key; list_safetensors finds them"
        raise ArgumentError(problem, where=path, lead=None, remedy=remedy, sep=": ")
    if key.endswith("/"):
        raise IsDirectoryError(
            "a prefix of keys, not an object", where=path, remedy="name one file; list_safetensors finds them", sep=": "
        )
    return bucket, key
