"""Local files read by kvikio straight into device memory, where GPUDirect Storage can.

What says that it can, in the order asked; the first "no" is the reason given:

1. kvikio's own mode (`KVIKIO_COMPAT_MODE`, and what kvikio infers: libcufile found, /run/udev readable, not WSL).
2. `is_gds_available` of cuFile's driver: the kernel module nvidia-fs is loaded.
3. The file's mount. cuFile is asked to register the open file; with `allow_compat_mode` in its cufile.json, the
   default, it accepts any and copies through host memory itself, so that the kind of file system is looked at too.

No setting of kvikio or cuFile is changed, not even for a while: kvikio's are the whole process's. Reads go through
`CuFile.raw_read`, which runs in the calling thread, without the GIL, and knows neither kvikio's thread pool (one
thread by default) nor its task size and threshold. The compatibility mode stays as it is: OFF without a driver would
spin for ever.

kvikio and cuda-bindings are imported when a file is opened, not before.
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
"""Where NVIDIA documents GPUDirect Storage; "unknown" to us is, among others, WekaFS: there cuFile's word counts."""


class GdsFile:
    """An open local file whose ranges kvikio reads into device memory.

    Opened whether or not GPUDirect can be used (`open_gds` decides that): without it, kvikio copies through a pinned
    buffer of its own, and the bytes are the same.

    Args:
        source: has to stay open until this is closed. Its `open_file` is read, which is the same file even if the path
            is replaced meanwhile.

    Raises:
        MissingDependencyError: kvikio is not installed.
        ReadError: kvikio cannot open the file.
        GdsUnavailableError: no file lies behind the source.
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

        Neither needs an alignment; reads that start and end on multiples of 4096 bytes are the fastest. Returns when
        the bytes are in device memory, for every stream that is told of it afterwards. May be called from many
        threads, in each of which the device's context is current (`cuda.core.Device.set_current`).

        GPUDirect knows nothing of streams: neither does a read wait for what is pending on this memory, nor do
        streams wait for the read. Before the first read into a fresh allocation the caller waits, on the host, for
        what was pending on its memory; it frees or hands on the memory only after this call has returned. The memory
        is the caller's, and nothing of it is kept.

        Raises:
            TruncatedError: the file ends first.
            SourceChangedError: the file was written to since it was opened.
            InterruptedReadError: the load ended while this waited in the line of a capped bandwidth.
            ReadError: kvikio or cuFile failed; what they said is in the message.
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
                # A count below what was asked for is no error to cuFile.
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
        """Give the file back to cuFile and kvikio; `source` stays open. No read may be in flight. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def open_gds(source: Source, mode: GdsMode, *, shared: bool = False) -> GdsFile | None:
    """The file for reads by GPUDirect, or None where it is not to be used: then read into pinned memory and copy.

    Why not is a DEBUG line of the log.

    Args:
        source: what is streamed.
        mode: `NEVER` is None, without a look; `AUTO` is None unless GPUDirect can be used and pays: not for a file
            that is in memory already (more than half of it in the page cache), nor for one of which other processes
            of this node read the same bytes.
        shared: other processes of this node load the same file, and the page cache would serve them all.

    Raises:
        GdsUnavailableError: `ALWAYS`, and it cannot be used.
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
    """Why no file of this machine can be read by GPUDirect; None if it may."""
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
    """Why there is no file to read past the source."""
    if source.kind is SourceKind.OBJECT:
        return "it is an object, and GPUDirect reads local files only"
    return "its bytes have to pass through host memory"


def _no_mount(file: OpenFile) -> str | None:
    """Why this file cannot be read by GPUDirect on a machine that can; None if it can."""
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
    """Why another way is faster for this file; None if none is known to be."""
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
    """Device memory as kvikio takes it: by the CUDA array interface."""

    __slots__ = ("__cuda_array_interface__",)

    def __init__(self, pointer: int, length: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (pointer, False),
            "shape": (length,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }
