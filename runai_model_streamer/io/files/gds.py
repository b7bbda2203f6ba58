"""Local files that are read straight into device memory, by GPUDirect Storage: which, and the reads.

These checks decide it, in this order. The first "no" is the reason given:

1. cuFile (`cufile.no_driver`), asked once in a process.
2. The file system: one that NVIDIA documents for GPUDirect.
3. Whether it is faster than reads through host memory (mode `AUTO`).
4. The open file itself, which cuFile has to register.
"""

import logging
import os
from typing import Final

from runai_model_streamer import errors
from runai_model_streamer.config import GdsMode
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.cufile import RegisteredFile, no_driver
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.source import OpenFile, Source
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange, round_down, round_up

_log = logging.getLogger(__name__)

_FILE_SYSTEMS: Final = frozenset({"ext4", "xfs", "nfs", "lustre", "gpfs", "beegfs", "unknown"})
"""File systems for which NVIDIA documents GPUDirect Storage. "unknown" includes WekaFS, where cuFile decides."""


class GdsFile:
    """An open local file whose ranges cuFile reads into device memory.

    Args:
        source: has to stay open until this is closed. Its `open_file` is read, so a replaced path does not matter.

    Raises:
        GdsUnavailableError: cuFile does not take the file, or the source has none.
    """

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.size = source.size
        opened = source.open_file()
        if opened is None:
            raise errors.GdsUnavailableError(_no_file(source), where=source.path)
        self._opened = opened
        mount = f"its mount ({file_systems.name(opened.fileno())})"
        try:
            self._file: RegisteredFile | None = RegisteredFile(f"/proc/self/fd/{opened.fileno()}")
        except OSError as error:
            raise errors.GdsUnavailableError(
                f"{mount} has no direct reads: {error.strerror}", where=self.path
            ) from error
        except (ImportError, RuntimeError) as error:
            raise errors.GdsUnavailableError(
                f"cuFile does not take files of {mount}: {error}", where=self.path
            ) from error

    def read_into_device(self, offset: int, length: int, base: int, at: int) -> None:
        """Fill `length` bytes of registered device memory with the file's bytes from `offset` on.

        The call returns when the bytes are in device memory, visible to all work queued afterwards. Many threads may
        call it. The device's context has to be current in each. GPUDirect ignores streams: no work that uses the memory
        may be pending. The memory is the caller's; no reference is kept.

        Reads that start on multiples of 4096 bytes, in the file and in memory, go directly. Others go through a buffer
        of cuFile's on the device.

        Args:
            offset: first byte in the file.
            length: bytes to read.
            base: start of memory that `cufile.RegisteredMemory` has registered.
            at: where the bytes go, relative to `base`. Up to the next multiple of 4096 bytes after them, the memory may
                be written to.

        Raises:
            TruncatedError: the file ends first.
            SourceChangedError: the file was written to since it was opened.
            InterruptedReadError: the load ended while this waited for the bandwidth limit.
            ReadError: cuFile failed; the message has its reason.
        """
        for piece in self._opened.pieces(ByteRange(offset, offset + length)):
            self._read(piece, base, at + piece.start - offset)

    def _read(self, span: ByteRange, base: int, at: int) -> None:
        where = errors.Where(self.path, span)
        file = self._file
        if file is None:
            raise errors.ReadError(f"{span}: the file is closed", where=where)
        end = min(round_up(span.end, PAGE), self.size)
        position, count = span.start, 0
        while position < min(span.end, end):
            size = end - position
            if size > PAGE:  # the odd end of a file is read by itself: all before it is whole pages
                size = round_down(size, PAGE)
            count = file.read(base, size, position, at + position - span.start)
            if count <= 0:
                break
            position += count  # cuFile may read less than requested, without an error
        why = file.reason(count) if count < 0 else f"cuFile ended at byte {position}"
        found = os.fstat(self._opened.fileno()).st_size
        if found < span.end:
            raise errors.TruncatedError(
                f"ends at byte {found}, but {span} were expected; it was {self.size} bytes long when opened",
                where=where,
            )
        self._opened.require_unchanged(span)
        if position < span.end:
            raise errors.ReadError(f"{span}: cannot be read into device memory: {why}", where=where)

    def interrupt(self) -> None:
        """Do nothing: a read of a local file cannot be cut short."""

    def close(self) -> None:
        """Release the file in cuFile. `source` stays open. No read may be in flight. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def open_gds(source: Source, mode: GdsMode, *, shared: bool = False) -> GdsFile | None:
    """Return the file for reads by GPUDirect, or None to read into pinned memory and copy.

    The reason for None is a DEBUG line of the log.

    Args:
        source: the source to read.
        mode: `NEVER` gives None without a check. `AUTO` gives None unless GPUDirect is available and faster. It is not
            faster if more than half of the file is in the page cache, or if `shared`.
        shared: whether other processes of this node load the same file; the page cache would serve them all.

    Raises:
        GdsUnavailableError: the mode is `ALWAYS`, and GPUDirect is unavailable.
    """
    if mode is GdsMode.NEVER:
        return None
    file = source.open_file()
    if file is None:
        reason: str | None = _no_file(source)
    else:
        reason = no_driver() or _no_file_system(file)
        if reason is None and mode is GdsMode.AUTO:
            reason = _no_gain(file, source.size, shared)
    if reason is None:
        try:
            return GdsFile(source)
        except errors.GdsUnavailableError as error:
            reason = error.problem
    if mode is GdsMode.ALWAYS:
        raise errors.GdsUnavailableError(
            f"RUNAI_STREAMER_GDS=1, but GPUDirect Storage cannot be used: {reason}",
            where=source.path,
            remedy="RUNAI_STREAMER_GDS=auto loads through pinned host memory instead",
            sep=". ",
        )
    _log.debug("%s: no GPUDirect: %s; loading through pinned host memory", source.path, reason)
    return None


def _no_file(source: Source) -> str:
    """Return why the source has no file to read directly."""
    if source.kind is SourceKind.OBJECT:
        return "it is an object, and GPUDirect reads local files only"
    return "its bytes have to pass through host memory"


def _no_file_system(file: OpenFile) -> str | None:
    """Return why GPUDirect does not read the file's file system; None if it may."""
    name = file_systems.name(file.fileno())
    return None if name in _FILE_SYSTEMS else f"it is on {name}, which GPUDirect does not read"


def _no_gain(file: OpenFile, size: int, shared: bool) -> str | None:
    """Return why reads through host memory are faster for this file; None if they are not."""
    if shared:
        return "other processes of this node load the same file, which the page cache reads once for all"
    fd = file.fileno()
    cached = PageCache(fd, os.fstat(fd)).cached_bytes(0, size) if size else 0
    if cached is not None and cached > size // 2:
        return "most of it is in the page cache already"
    return None
