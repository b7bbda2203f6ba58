"""Local files. Cached ranges are copied from the page cache; others are read past it."""

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from runai_model_streamer import errors
from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.device import device_of
from runai_model_streamer.io.files.failures import translated
from runai_model_streamer.io.files.page_cache import AskPageCache, PageCache
from runai_model_streamer.io.files.requests import RequestSize, RequestSizes, way_of
from runai_model_streamer.io.files.stamps import Glance, stamp_of
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange, round_down

_log = logging.getLogger(__name__)

PIECE: Final = 1 << 20
"""Granularity, in bytes, of the check for cached bytes in a partly cached range."""

_REFUSED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EFAULT})
"""Errors of direct reads that the file system does not support. Some network mounts fail only on the first read.

EFAULT: a driver has mapped the memory so that the kernel cannot pin it, as CUDA's may where it allocates host memory.
"""


class _Run(NamedTuple):
    """Part of a range that is read through one descriptor."""

    fd: int
    start: int
    """First byte, relative to the range."""
    end: int


class FileSource:
    """A regular file, opened for reading; see `Source`.

    Args:
        path: the file, as the user wrote it.
        direct: whether reads go past the page cache. `AUTO` reads uncached ranges past it, on file systems that support
            this well (`file_systems.DIRECT`), unless `shared`.
        shared: whether other processes of this node load the same file. `AUTO` then reads through the page cache, so
            that the disk is read once for all of them.
        requests: set how many bytes one direct read asks for, as the disk's rate suggests; None for the file's own.
        page_cache: makes what says which bytes are cached, from the descriptor and its status.

    Raises:
        NotFoundError, IsDirectoryError, AccessDeniedError, ReadError: the file cannot be opened for reading.
    """

    kind = SourceKind.FILE
    alignment = PAGE
    verified_by: str | None = None
    in_order = False
    local: Sequence[ByteRange] | None = None

    def __init__(
        self,
        path: str,
        direct: DirectIO = DirectIO.AUTO,
        *,
        shared: bool = False,
        requests: RequestSizes | None = None,
        page_cache: AskPageCache = PageCache,
    ) -> None:
        self.path = path
        self._fd = self._direct_fd = -1
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer. Regular files ignore it.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        except OSError as error:
            self.close()
            raise translated(error, path) from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            if stat.S_ISDIR(status.st_mode):
                raise errors.IsDirectoryError(
                    "is a folder", where=path, remedy="give the safetensors files in it one by one"
                )
            raise errors.ReadError("is not a regular file but a pipe, socket or device", where=path)
        self.size = status.st_size
        self._stamp = stamp_of(status)
        self.version: str | None = str(status.st_mtime_ns)
        self._file_system = file_systems.name(self._fd)
        self._glance = Glance(self._fd, self._stamp, local=self._file_system in file_systems.LOCAL)
        self._page_cache: PageCache | None = None
        self._direct_refused = False
        self._why = ""
        self._requests = RequestSize() if requests is None else requests[status.st_dev]
        self._largest = 0  # bytes of one request
        self.streams: int | None = None
        self._open_direct(direct, shared, status, page_cache)
        if self._reads_direct and self._file_system in file_systems.DIRECT:
            self.streams = device_of(status.st_dev).streams

    def _open_direct(self, direct: DirectIO, shared: bool, status: os.stat_result, ask: AskPageCache) -> None:
        self._why = file_systems.why_buffered(self._file_system, direct, shared=shared)
        if self._why:
            return
        if direct is DirectIO.AUTO:
            self._page_cache = ask(self._fd, status)
            if self._page_cache.cached_bytes(0, 1) is None:
                self._why = "the kernel does not say what it holds"
                _log.debug("%s: the kernel does not say what is cached; reading through the page cache", self.path)
                return
        try:
            # By descriptor, so that it is the same file even if the path has been replaced.
            self._direct_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            self._no_direct(error)

    @property
    def way(self) -> str:
        """How the bytes have been read so far, and why; see `Source.way`."""
        return f"through the page cache: {self._why}" if self._why else way_of(self._largest)

    def _no_direct(self, error: OSError) -> None:
        self._why = f"{self._file_system} refuses direct reads ({error.strerror})"
        _log.debug("%s: no direct reads on %s (%s); reading buffered", self.path, self._file_system, error.strerror)

    def origin(self, offset: int, length: int) -> Origin:
        """Return where a read of the range would come from now; see `Source.origin`."""
        return self._origin(offset, length, self._cached_bytes(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` from `offset`; see `Source.read_into`."""
        try:
            origin = self._fill(offset, buffer)
            if self._glance.may_differ:
                self.require_unchanged(ByteRange(offset, offset + len(buffer)))
        except OSError as error:
            if isinstance(error, errors.StreamerError):
                raise
            raise translated(error, self.path, ByteRange(offset, offset + len(buffer))) from error
        return origin

    def _fill(self, offset: int, buffer: memoryview) -> Origin:
        length = len(buffer)
        cached = self._cached_bytes(offset, length)
        origin = self._origin(offset, length, cached)
        if origin is Origin.DISK:
            runs = self._runs(offset, length, cached or 0)
            try:
                for fd, start, end in runs:
                    read = self._read_direct if fd == self._direct_fd else self._read
                    read(fd, offset + start, buffer[start:end])
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                # The memory may also be unaligned. The descriptor stays open, since other threads may read from it.
                self._direct_refused = True
                self._no_direct(error)
            else:
                return Origin.DISK if any(run.fd == self._direct_fd for run in runs) else Origin.BUFFERED
            origin = Origin.BUFFERED
        self._read(self._fd, offset, buffer)
        return origin

    def _runs(self, offset: int, length: int, cached: int) -> list[_Run]:
        """Return how to read a range that begins on a page and has `cached` bytes in the page cache.

        A run is one call, however long: the kernel requests all of it at once, and the GIL is taken once.
        """
        direct, fd = self._direct_fd, self._fd
        whole = round_down(length, PAGE)
        if not cached or length <= PIECE:
            return [_Run(direct, 0, whole)] if whole == length else [_Run(direct, 0, whole), _Run(fd, whole, length)]
        runs: list[_Run] = []
        for start in range(0, whole, PIECE):
            size = min(PIECE, whole - start)
            way = fd if (self._cached_bytes(offset + start, size) or 0) >= size else direct
            begin = runs.pop().start if runs and runs[-1].fd == way else start
            runs.append(_Run(way, begin, start + size))
        if whole < length:
            runs.append(_Run(fd, whole, length))
        return runs

    def skip_verification(self) -> None:
        """Do nothing: a file has no checksum."""

    def open_file(self) -> Self:
        """Return this file, for direct use of its descriptor (`io.files.gds`); see `OpenFile`."""
        return self

    def fileno(self) -> int:
        """Return the descriptor, which this source still owns."""
        return self._fd

    def pieces(self, span: ByteRange) -> tuple[ByteRange]:
        """Return the range as one piece."""
        return (span,)

    def require_unchanged(self, span: ByteRange) -> None:
        """Raise `SourceChangedError`, which names `span`, if the file was written to since it was opened."""
        now, opened = stamp_of(os.fstat(self._fd)), self._stamp
        if now == opened:
            return
        if (now.size, now.modified) != (opened.size, opened.modified):
            raise errors.SourceChangedError(
                f"was written to while it was being streamed ({span})",
                where=errors.Where(self.path, span),
                remedy="load again once it is complete",
            )
        if now.links == opened.links and self._is_at_its_path():
            raise errors.SourceChangedError(
                f"was changed while it was being streamed ({span}), and its modification time put back (as by rsync "
                "--inplace --times), or its owner or mode was set",
                where=errors.Where(self.path, span),
                remedy="load again once that is done",
            )
        # Only its names changed: a link was added or removed, or the file was renamed. That sets the change time too.
        self._stamp = now
        self._glance.expect(now)

    def _is_at_its_path(self) -> bool:
        """Whether the path still leads to this file. Renaming a file sets the time of its change, and no byte of it."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        return False

    @property
    def _reads_direct(self) -> bool:
        return self._direct_fd >= 0 and not self._direct_refused

    def _cached_bytes(self, offset: int, length: int) -> int | None:
        """Return the bytes of the range in the page cache; None if unknown or irrelevant."""
        if self._page_cache is None or not self._reads_direct:
            return None
        return self._page_cache.cached_bytes(offset, length)

    def _origin(self, offset: int, length: int, cached: int | None) -> Origin:
        if self._file_system in file_systems.IN_MEMORY:
            return Origin.PAGE_CACHE
        if not self._reads_direct:
            return Origin.BUFFERED
        # A tail shorter than a page cannot be read past the page cache.
        past_the_cache = Origin.BUFFERED if offset % PAGE or length < PAGE else Origin.DISK
        if self._page_cache is None:
            return past_the_cache
        if cached is None:
            return Origin.BUFFERED
        return Origin.PAGE_CACHE if cached >= length else past_the_cache

    def _read_direct(self, fd: int, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on, in requests that suit the disk."""
        requests, landed, length = self._requests, 0, len(buffer)
        while landed < length:
            left = length - landed  # a short rest of it is no request of its own, which would take as long to begin
            size = left if left < 1.25 * requests.size else min(left, requests.size)
            began = time.perf_counter()
            self._read(fd, offset + landed, buffer[landed : landed + size])
            requests.landed(size, began, time.perf_counter())
            self._largest = max(self._largest, size)
            landed += size

    def _read(self, fd: int, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on."""
        landed, length = 0, len(buffer)
        while landed < length:
            count = os.preadv(fd, [buffer[landed:]], offset + landed)
            if not count:
                span = ByteRange(offset, offset + length)
                raise errors.TruncatedError(
                    f"ends at byte {offset + landed}, but {span} were expected; it was {self.size} bytes long when "
                    "opened",
                    where=errors.Where(self.path, span),
                )
            landed += count

    def interrupt(self) -> None:
        """Do nothing: a read of a local file cannot be cut short."""

    def close(self) -> None:
        """Close the file descriptors. No read may be in flight."""
        self._page_cache = None
        # Forget each number before closing it: after a Ctrl-C in between, a second close could hit another file.
        fd, self._fd = self._fd, -1
        _close(fd)
        fd, self._direct_fd = self._direct_fd, -1
        _close(fd)

    def __del__(self) -> None:
        # A reader stuck in a read keeps the source beyond its load's close, until the thread ends.
        self.close()


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)
