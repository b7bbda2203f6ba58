"""Local files that kvikio reads straight into device memory, by GPUDirect Storage.

These checks decide whether that is possible, in this order. The first "no" is the reason given:

1. kvikio's own mode (`KVIKIO_COMPAT_MODE`, and what kvikio infers: libcufile found, /run/udev readable, not WSL).
2. `is_gds_available` of cuFile's driver: the kernel module nvidia-fs is loaded.
3. The file's mount. cuFile has to register the open file. With `allow_compat_mode` in its cufile.json, the default,
   it accepts any file and copies through host memory itself, so the file system is checked too.

The settings of kvikio and cuFile stay unchanged, since they apply to the whole process. Reads use `CuFile.raw_read`,
which runs in the calling thread without the GIL, and uses neither kvikio's thread pool (one thread by default) nor its
task size and threshold. The compatibility mode stays as it is: OFF without a driver would spin forever.

kvikio and cuda-bindings are imported when a file is opened, not earlier.
"""

import importlib.util
import logging
import os
from typing import Any, Final

from runai_model_streamer import errors
from runai_model_streamer.config import GdsMode
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.source import OpenFile, Source
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_INSTALL: Final = f"{install_command('cuda13')} (or [cuda12])"

_FILE_SYSTEMS: Final = frozenset({"ext4", "xfs", "nfs", "lustre", "gpfs", "beegfs", "unknown"})
"""File systems for which NVIDIA documents GPUDirect Storage. "unknown" includes WekaFS, where cuFile decides."""


class GdsFile:
    """An open local file whose ranges kvikio reads into device memory.

    It works with and without GPUDirect (`open_gds` decides whether to use it). Without it, kvikio copies the same bytes
    through its own pinned buffer.

    Args:
        source: has to stay open until this is closed. Its `open_file` is read, so a replaced path does not matter.

    Raises:
        MissingDependencyError: kvikio is not installed.
        ReadError: kvikio cannot open the file.
        GdsUnavailableError: the source has no file.
    """

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.size = source.size
        opened = source.open_file()
        if opened is None:
            raise errors.GdsUnavailableError(f"GPUDirect cannot read it: {_no_file(source)}", where=source.path)
        self._opened = opened
        self._file: Any = None
        if not _installed("kvikio"):
            raise errors.MissingDependencyError(
                "GPUDirect reads need kvikio", where=self.path, remedy=_INSTALL, sep=": "
            )
        import kvikio

        try:
            self._file = kvikio.CuFile(_by_descriptor(opened), "r")
        except (RuntimeError, OSError, ValueError) as error:
            raise errors.ReadError(f"kvikio cannot open it: {error}", where=self.path) from error

    def read_into_device(self, offset: int, pointer: int, length: int) -> None:
        """Fill `length` bytes of device memory at `pointer` with the file's bytes from `offset` on.

        No alignment is required; reads that start and end on multiples of 4096 bytes are the fastest. The call returns
        when the bytes are in device memory, visible to all work queued afterwards. Many threads may call it. The
        device's context has to be current in each (`cuda.core.Device.set_current`).

        GPUDirect ignores streams: a read does not wait for work pending on this memory, and streams do not wait for the
        read. Before the first read into a fresh allocation, the caller waits on the host for that work. It frees or
        passes on the memory only after this call has returned. The memory is the caller's; no reference is kept.

        Raises:
            TruncatedError: the file ends first.
            SourceChangedError: the file was written to since it was opened.
            InterruptedReadError: the load ended while this waited for the bandwidth limit.
            ReadError: kvikio or cuFile failed; the message has their reason.
        """
        for piece in self._opened.pieces(ByteRange(offset, offset + length)):
            self._read(piece, pointer + piece.start - offset)

    def _read(self, span: ByteRange, pointer: int) -> None:
        offset, length = span.start, span.size
        if self._file is None:
            raise errors.ReadError(f"{span}: the file is closed", where=errors.Where(self.path, span))
        landed, failure = 0, None
        try:
            while landed < length:
                # cuFile may read less than requested, without an error.
                target = _DeviceBytes(pointer + landed, length - landed)
                count = self._file.raw_read(target, length - landed, offset + landed)
                if not count:
                    break
                landed += count
        except (RuntimeError, OSError, ValueError) as error:
            failure = error
        size = os.fstat(self._opened.fileno()).st_size
        if size < span.end:
            raise errors.TruncatedError(
                f"ends at byte {size}, but {span} were expected; it was {self.size} bytes long when opened",
                where=errors.Where(self.path, span),
            ) from failure
        self._opened.require_unchanged(span)
        if landed < length:
            why = failure or f"cuFile ended at byte {offset + landed}"
            raise errors.ReadError(
                f"{span}: cannot be read into device memory: {why}", where=errors.Where(self.path, span)
            ) from failure

    def interrupt(self) -> None:
        """Do nothing: a read of a local file cannot be cut short."""

    def close(self) -> None:
        """Release the file in cuFile and kvikio. `source` stays open. No read may be in flight. Idempotent."""
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
        ReadError: kvikio cannot open the file.
    """
    if mode is GdsMode.NEVER:
        return None
    file = source.open_file()
    if file is None:
        reason: str | None = _no_file(source)
    else:
        reason = no_driver() or _no_mount(file)
        if reason is None:
            if mode is GdsMode.AUTO:
                reason = _no_gain(file, source.size, shared)
            if reason is None:
                return GdsFile(source)
    if mode is GdsMode.ALWAYS:
        raise errors.GdsUnavailableError(
            f"RUNAI_STREAMER_GDS=1, but GPUDirect Storage cannot be used: {reason}",
            where=source.path,
            remedy="RUNAI_STREAMER_GDS=auto loads through pinned host memory instead",
            sep=". ",
        )
    _log.debug("%s: no GPUDirect: %s; loading through pinned host memory", source.path, reason)
    return None


def no_driver() -> str | None:
    """Return why GPUDirect is unavailable on this machine; None if it is available."""
    if not _installed("kvikio"):
        return f"kvikio is not installed: {_INSTALL}"
    try:
        import kvikio.cufile_driver
        import kvikio.defaults

        if kvikio.defaults.get("compat_mode") == kvikio.CompatMode.ON:
            return "kvikio's compatibility mode is ON (KVIKIO_COMPAT_MODE)"
        if kvikio.defaults.is_compat_mode_preferred():
            if not os.access("/run/udev", os.R_OK):
                return "/run/udev cannot be read; in a container, start it with --volume /run/udev:/run/udev:ro"
            return "kvikio finds no libcufile.so.0 (CUDA's GPUDirect Storage library), or this is WSL"
        if not kvikio.cufile_driver.get("is_gds_available"):
            return "the kernel module nvidia-fs is not loaded (CUDA's `gdscheck.py -p` tells more)"
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return f"kvikio cannot be used: {error}"
    return None


def _no_file(source: Source) -> str:
    """Return why the source has no file to read directly."""
    if source.kind is SourceKind.OBJECT:
        return "it is an object, and GPUDirect reads local files only"
    return "its bytes have to pass through host memory"


def _no_mount(file: OpenFile) -> str | None:
    """Return why GPUDirect cannot read this file, on a machine that has GPUDirect; None if it can."""
    file_system = file_systems.name(file.fileno())
    if file_system not in _FILE_SYSTEMS:
        return f"it is on {file_system}, which GPUDirect does not read"
    try:
        from cuda.bindings import cufile
    except ImportError as error:
        return f"cuda-bindings with cuFile is needed to ask about the file's mount ({error}): {_INSTALL}"
    try:
        fd = os.open(_by_descriptor(file), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        return f"its mount ({file_system}) has no direct reads: {error.strerror}"
    try:
        description = cufile.Descr()
        description.type = cufile.FileHandleType.OPAQUE_FD
        description.handle.fd = fd
        cufile.handle_deregister(cufile.handle_register(description.ptr))
    except (cufile.cuFileError, RuntimeError) as error:
        return f"cuFile does not take files of its mount ({file_system}): {error}"
    finally:
        os.close(fd)
    return None


def _no_gain(file: OpenFile, size: int, shared: bool) -> str | None:
    """Return why reads through host memory are faster for this file; None if they are not."""
    if shared:
        return "other processes of this node load the same file, which the page cache reads once for all"
    fd = file.fileno()
    cached = PageCache(fd, os.fstat(fd)).cached_bytes(0, size) if size else 0
    if cached is not None and cached > size // 2:
        return "most of it is in the page cache already"
    return None


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _by_descriptor(file: OpenFile) -> str:
    return f"/proc/self/fd/{file.fileno()}"


class _DeviceBytes:
    """Device memory with the CUDA array interface, which kvikio accepts."""

    __slots__ = ("__cuda_array_interface__",)

    def __init__(self, pointer: int, length: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (pointer, False),
            "shape": (length,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }
