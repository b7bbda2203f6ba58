"""Objects of S3 and compatible stores: where they are, how they are asked for, and what is asked again.

Credentials, signing, endpoints and redirects are botocore's; how a body reaches the buffer is `s3_connections`';
what an error means is `s3_errors`'. botocore is imported with the first request, not with this module.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import (
    ArgumentError,
    InterruptedReadError,
    IsDirectoryError,
    StreamerError,
    TruncatedError,
)
from runai_model_streamer.io import s3_errors
from runai_model_streamer.io.ranges import ByteRange
from runai_model_streamer.io.s3_answers import Answer, closed_on_error, receive, total_size, verify
from runai_model_streamer.io.s3_connections import Flights, watch_connections
from runai_model_streamer.io.s3_credentials import Access, S3Client, S3Credentials, make_access
from runai_model_streamer.io.s3_messages import Circumstances
from runai_model_streamer.io.source import Origin, SourceKind

_log = logging.getLogger(__name__)

PREFIX_BYTES: Final = 256 << 10
"""Bytes asked for when an object is opened. The header of nearly every safetensors file is shorter, so that one round
trip brings the size, the ETag and the header; and a refused GET explains itself in a body, which HEAD has not."""

_BACKOFF_BASE: Final = 0.1
_BACKOFF_CAP: Final = 5.0
"""Seconds: before retry n, any time up to base * 2**(n-1), but not above the cap, so that readers that failed
together do not come back together."""

_OPENING_RETRIES: Final = 2
"""Where there is no connection to a store from which nothing has come yet: a wrong endpoint is likelier than a fault
that passes, and whoever mistyped it should not wait."""


class S3Store:
    """One way of access to object storage, with a client that all its sources share.

    Thread safe. The client is made with the first request; `close` gives its connections back.
    """

    def __init__(self, config: S3Config, credentials: S3Credentials | None, connections: int) -> None:
        """`connections` is the number of reads at once for which connections are kept open."""
        self.config = config
        self._credentials = credentials
        self._connections = connections
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._clients: list[S3Client] = []
        self._flights: set[Flights] = set()
        self._stopped = False

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
        with self._lock:
            if self._stopped:
                raise InterruptedReadError("no request made: the streamer is closing")
            if self._access is None:
                self._access = make_access(self.config, self._credentials, self._connections)
                self._clients.append(self._access.client)
                if not watch_connections(self._access.client):
                    _log.debug("the connections of this botocore cannot be watched: interrupts wait for its timeouts")
            return self._access

    def renew(self, refused: Access) -> None:
        """Read the credentials anew with the next request, unless another thread has seen to that. For sources."""
        with self._lock:
            if self._access is refused:
                self._access = None

    def forget(self, flights: Flights) -> None:
        """A source has closed. For sources."""
        with self._lock:
            self._flights.discard(flights)

    def interrupt(self) -> None:
        """Make all reads and openings, in flight and to come, raise `InterruptedReadError` soon. From any thread.

        Within milliseconds, also while a request connects or waits for an answer. Only the resolution of a host's
        name, and a credential provider's own requests, last until their timeouts.
        """
        with self._lock:
            self._stopped = True
            flights = list(self._flights)
        for each in flights:
            each.stop()

    def close(self) -> None:
        """Close all connections. What was opened here can no longer be read. Idempotent."""
        self.interrupt()
        with self._lock:
            clients, self._clients, self._access = self._clients, [], None
        for client in clients:
            client.close()


class S3Source:
    """An object of a store; see `Source`. Made by `S3Store.open`."""

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
    def kind(self) -> SourceKind:
        """`SourceKind.OBJECT`."""
        return SourceKind.OBJECT

    @property
    def size(self) -> int:
        """Bytes in the object when it was opened."""
        return self._size

    @property
    def alignment(self) -> int:
        """1: any read is as fast as any other."""
        return 1

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
                f"{self._path}: {span} cannot be read: the object has {self._size} bytes. "
                f"Upload it again if it should have more."
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

    def interrupt(self) -> None:
        """Make reads in flight and to come raise `InterruptedReadError`. From any thread; see `S3Store.interrupt`."""
        self._flights.stop()

    def close(self) -> None:
        """Give the prefix's memory back. The connections are the store's. Idempotent."""
        self._flights.stop()
        self._store.forget(self._flights)
        self._prefix = None

    def _fetch_prefix(self, access: Access) -> None:
        try:
            response = self._ask(access, ByteRange(0, PREFIX_BYTES))
        except Exception as error:
            # No range begins within an empty object: stores refuse it, and a few answer 200 with nothing.
            if s3_errors.is_beyond_end(error):
                return
            raise
        body = response["Body"]
        if Answer.of(response).status == 200 and response.get("ContentLength") == 0:
            body.close()
            return
        with closed_on_error(body):
            total = total_size(response)
            span = ByteRange(0, min(PREFIX_BYTES, total))
            verify(response, span, total)
        prefix = bytearray(span.size)
        receive(body, memoryview(prefix)).check()
        self._size, self.etag, self._prefix = total, response.get("ETag"), prefix

    def _fetch(self, span: ByteRange, view: memoryview) -> None:
        landed = 0

        def fetch_rest(access: Access) -> None:
            nonlocal landed
            rest = ByteRange(span.start + landed, span.end)
            response = self._ask(access, rest)
            body = response["Body"]
            with closed_on_error(body):
                verify(response, rest, self._size, self.etag)
            received = receive(body, view[landed:])
            landed += received.count
            received.check()

        self._persist(span, fetch_rest)

    def _ask(self, access: Access, span: ByteRange) -> dict[str, Any]:
        request = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={span.start}-{span.end - 1}"}
        # A weak ETag never matches.
        if self.etag and not self.etag.startswith("W/"):
            request["IfMatch"] = self.etag
        return access.client.get_object(**request)

    def _persist(self, span: ByteRange, attempt: Callable[[Access], None]) -> None:
        """Make attempts until one succeeds, there have been too many, or one shows that more are of no use."""
        config = self._store.config
        began = time.monotonic()
        attempts = 0
        renewed = False
        access: Access | None = None
        while not self._flights.stopped():
            attempts += 1
            try:
                access = self._store.access()
                with self._flights.flight():
                    attempt(access)
                return
            except StreamerError:
                raise
            except Exception as error:
                s3_errors.release_frames(error)
                if self._flights.stopped():
                    break
                if access is not None and not renewed and s3_errors.is_expired(error):
                    renewed = True
                    self._store.renew(access)
                    continue
                retries = config.max_retries
                if not self._opened and s3_errors.is_unreachable(error):
                    retries = min(retries, _OPENING_RETRIES)
                if attempts > retries or not s3_errors.is_passing(error):
                    seconds = time.monotonic() - began
                    unsigned, secrets = (access.unsigned, access.secrets) if access else (False, ())
                    facts = (self._path, self._bucket, span, attempts, seconds, config.timeout, unsigned, secrets)
                    s3_errors.raise_translated(error, Circumstances(*facts))
                pause = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempts - 1)))
                _log.info(
                    "%s: %s: attempt %d failed: %s; the next in %.1f s",
                    self._path, span, attempts, s3_errors.in_short(error), pause,
                )  # fmt: skip
            self._flights.wait(pause)
        raise InterruptedReadError(f"{self._path}: {span} not read: the streamer is closing")


def _split_url(path: str) -> tuple[str, str]:
    scheme, separator, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not separator or not bucket or not key:
        raise ArgumentError(f"{path!r} does not name an object: write s3://bucket/key")
    if key.endswith("/"):
        raise IsDirectoryError(f"{path}: a prefix of keys, not an object: name one file, or list them")
    return bucket, key
