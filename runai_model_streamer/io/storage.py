"""Opens and lists what one load reads, whatever kind of storage it is in."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace

from runai_model_streamer.config import S3Transport, StreamerConfig
from runai_model_streamer.io.bandwidth import Bandwidth, PacedSource
from runai_model_streamer.io.checksums import VerifiedSource
from runai_model_streamer.io.files.listing import list_folder
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.listing import list_objects
from runai_model_streamer.io.s3.store import PREFIX_BYTES, S3Store
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import SourceKind

_log = logging.getLogger(__name__)


class Storage:
    """Opens the sources of one load, which share one client for object storage.

    Args:
        shared: other processes of this node load the same files.
        few_bytes: objects are listed, and little is read of them. Then boto3 moves the bytes, unless the setting names
            another transport: libcurl's needs numba, whose import takes 1.5 s of CPU time.
    """

    def __init__(
        self, config: StreamerConfig, credentials: S3Credentials | None, *, shared: bool, few_bytes: bool = False
    ) -> None:
        self._config = config
        self._shared = shared
        # A copy: the caller may change them, for another call, while this one's are still read anew.
        self._credentials = copy(credentials)
        s3 = config.s3
        if few_bytes and s3.transport is S3Transport.AUTO:
            s3 = replace(s3, transport=S3Transport.BOTO3)
        self._store = S3Store(s3, self._credentials, config.concurrency_for(SourceKind.OBJECT))
        self._bandwidth = Bandwidth(config.max_bandwidth) if config.max_bandwidth else None

    @contextmanager
    def for_many_bytes(self) -> Iterator["Storage"]:
        """The same storage, by the transport for many bytes: connections of its own, which end with the context."""
        storage = Storage(self._config, self._credentials, shared=self._shared)
        try:
            yield storage
        finally:
            storage.close()

    def open(self, path: str) -> Source:
        """The source behind a path.

        With `verify`, an object's bytes are held against the store's checksum of it, for which the store is asked
        once more; one that has none is read all the same.

        Raises:
            ReadError: it is not there, or may not be read.
            MissingDependencyError: a library to read or to verify it with is not installed.
        """
        if not is_object(path):
            return self._paced(FileSource(path, self._config.direct_io, shared=self._shared), 0)
        source = self._store.open(path)
        if not self._config.verify:
            return self._paced(source, PREFIX_BYTES)
        try:
            checksum = source.checksum()
            if checksum is not None:
                return VerifiedSource(self._paced(source, PREFIX_BYTES), checksum)
        except BaseException:
            source.close()
            raise
        _log.warning(
            "%s: not verified: the store has no checksum of the whole object (upload it with "
            "--checksum-algorithm CRC64NVME, or in one part)",
            path,
        )
        return self._paced(source, PREFIX_BYTES)

    def _paced(self, source: Source, ahead: int) -> Source:
        return source if self._bandwidth is None else PacedSource(source, self._bandwidth, ahead)

    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """The files of a local folder, or the objects under a prefix, for whose names `wanted` holds; sorted by name.

        Raises:
            NotFoundError: there is no such folder or bucket, or no key under the prefix.
            ReadError: it may not be read, or is none.
        """
        if is_object(path):
            return list_objects(self._store, path, wanted, recursive=recursive)
        return list_folder(path, wanted, recursive=recursive)

    def open_known(self, path: str, size: int, version: str | None) -> Source:
        """Like `open`, without a request for an object: another process has found its size and version.

        A read of an object that has changed since then fails.
        """
        return self._paced(self._store.open(path, (size, version)), 0) if is_object(path) else self.open(path)

    @property
    def retries(self) -> int:
        """Requests to object storage that were made again."""
        return self._store.retries

    @property
    def transport(self) -> str | None:
        """What moves the bytes of objects; None where none was asked for."""
        return self._store.transport

    def interrupt(self) -> None:
        """Make requests in flight, and those to come, end soon. From any thread, as often as you like."""
        if self._bandwidth is not None:
            self._bandwidth.stop()
        self._store.interrupt()

    def reader_left(self, error: BaseException | None) -> None:
        """A reader thread, which calls this, leaves before all is read: for an error, or since the load has ended."""

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._store.close()
