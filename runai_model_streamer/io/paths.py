"""From a path or URL to the source behind it."""

import logging
import os
import re
from copy import copy

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from runai_model_streamer.io.bandwidth import Bandwidth, PacedSource
from runai_model_streamer.io.checksums import VerifiedSource
from runai_model_streamer.io.listing import Entry, Wanted, list_folder
from runai_model_streamer.io.posix import FileSource
from runai_model_streamer.io.s3 import PREFIX_BYTES, S3Store
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.io.s3_listing import list_objects
from runai_model_streamer.io.source import Source, SourceKind

_log = logging.getLogger(__name__)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_NOT_YET = {"gs": "Google Cloud Storage", "az": "Azure Blob Storage"}


def as_path(path: str | os.PathLike[str]) -> str:
    """`path` as text.

    Raises:
        ArgumentTypeError: neither a str nor an os.PathLike of one.
        ArgumentError: empty, or with characters that no path can have.
        UnsupportedError: a URL of a kind of storage that is not supported.
    """
    text: object = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a path is a str or os.PathLike, not {type(path).__name__}: {path!r}")
    if not text:
        raise ArgumentError("a path is empty; give a file's path or an s3://bucket/key URL")
    if "\0" in text or not _is_encodable(text):
        raise ArgumentError(f"a path has a character that no path can have: {text!r}")
    if text.startswith("s3:/") and not text.startswith("s3://"):
        raise ArgumentError(f"{text}: a URL has two slashes, s3://bucket/key; pathlib drops one, so pass it as a str")
    scheme = _SCHEME.match(text)
    if scheme and scheme[1] != "s3":
        service = _NOT_YET.get(scheme[1].lower())
        what = f"{service} is not supported yet" if service else f"{scheme[1]}:// URLs are not supported"
        raise UnsupportedError(f"{text}: {what}; give a local path or an s3://bucket/key URL")
    return text


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    """`text`, which may have a path in it, as UTF-8 can have it: names of files may be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_object(path: str) -> bool:
    """Whether a path is an object's URL rather than a local file's."""
    return path.startswith("s3://")


def kind_of(path: str) -> SourceKind:
    """What kind of source `Storage.open` gives for a path."""
    return SourceKind.OBJECT if is_object(path) else SourceKind.FILE


class Storage:
    """Opens the sources of one load, which share one client for object storage.

    Args:
        shared: other processes of this node load the same files.
    """

    def __init__(self, config: StreamerConfig, credentials: S3Credentials | None, *, shared: bool) -> None:
        self._config = config
        self._shared = shared
        # A copy: the caller may change them, for another call, while this one's are still read anew.
        self._store = S3Store(config.s3, copy(credentials), config.concurrency_for(SourceKind.OBJECT))
        self._bandwidth = Bandwidth(config.max_bandwidth) if config.max_bandwidth else None

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

    def open_known(self, path: str, size: int, etag: str | None) -> Source:
        """As `open`, but for an object that another process has found so: with no request. Reads want just that one."""
        return self._paced(self._store.open(path, (size, etag)), 0) if is_object(path) else self.open(path)

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
