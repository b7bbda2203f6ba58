"""NVIDIA's cuFile library, which reads files straight into device memory: whether it can, files and memory for it.

Calls go through `cuda.bindings.cufile`, which is imported when it is first needed. The read itself does not: that of
cuda-bindings 13.0 returns no count, so that a short read would pass as a whole one.

The settings of cuFile stay unchanged, since they apply to the whole process.
"""

import ctypes
import functools
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from runai_model_streamer.errors import CudaError, GdsUnavailableError
from runai_model_streamer.installation import install_command

_INSTALL: Final = f"{install_command('cuda13')} (or [cuda12])"

_NVIDIA_FS: Final = Path("/sys/module/nvidia_fs")
_CONFIGURATION: Final = "/etc/cufile.json"

_ALLOW_COMPAT_MODE: Final = 1
"""CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE, and the bit of it in the driver's properties."""
_USE_PCIP2PDMA: Final = 7
"""CUFILE_PARAM_USE_PCIP2PDMA. The names of both differ between versions of cuda-bindings."""

Read = Callable[[int, int, int, int, int], int]
"""`cuFileRead`: handle, start of the memory, size, offset in the file, offset in memory -> bytes or a negative code."""


class _Properties(ctypes.Structure):
    """`CUfileDrvProps_t` as far as it is used here, and room for the rest."""

    _fields_ = (
        ("major", ctypes.c_uint),
        ("minor", ctypes.c_uint),
        ("poll_threshold", ctypes.c_size_t),
        ("max_direct_io", ctypes.c_size_t),
        ("status", ctypes.c_uint),
        ("control", ctypes.c_uint),
        ("rest", ctypes.c_byte * 256),
    )


class RegisteredFile:
    """A file that cuFile reads. It has a descriptor of its own.

    Args:
        path: the file, by a path that cannot come to mean another file meanwhile.

    Raises:
        OSError: the mount has no direct reads.
        RuntimeError: cuFile does not take the file, or cannot be used.
        ImportError: cuda-bindings is not installed.
    """

    def __init__(self, path: str) -> None:
        self._cufile, self._read = _bindings(), _read_call()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        try:
            description = self._cufile.Descr()
            description.type = self._cufile.FileHandleType.OPAQUE_FD
            description.handle.fd = self._fd
            self._handle = self._cufile.handle_register(description.ptr)
        except BaseException as error:
            os.close(self._fd)
            if isinstance(error, self._cufile.cuFileError):
                raise RuntimeError(str(error)) from error
            raise

    def read(self, base: int, size: int, offset: int, at: int) -> int:
        """Read into device memory, whose context is current. Return the bytes that were read, or a negative code.

        Args:
            base: start of registered memory. Other memory is read into by way of a buffer of cuFile's.
            size: bytes to read.
            offset: first byte in the file.
            at: where the bytes go, relative to `base`.
        """
        return self._read(self._handle, base, size, offset, at)

    def reason(self, code: int) -> str:
        """Return what a negative code means, in the thread that got it."""
        return os.strerror(ctypes.get_errno()) if code == -1 else str(self._cufile.cuFileError(-code))

    def close(self) -> None:
        """Release the file. No read may be in flight."""
        self._cufile.handle_deregister(self._handle)
        os.close(self._fd)


class RegisteredMemory:
    """Device memory that cuFile has pinned for direct reads. The device's context has to be current.

    Args:
        address: the start of an allocation.
        size: its bytes.

    Raises:
        GdsUnavailableError: cuFile cannot pin it.
    """

    def __init__(self, address: int, size: int) -> None:
        self._address = address
        self._cufile = _bindings()
        try:
            self._cufile.buf_register(address, size, 0)
        except (self._cufile.cuFileError, RuntimeError) as error:
            raise GdsUnavailableError(f"cuFile cannot pin {size} bytes of device memory: {error}") from error

    def close(self) -> None:
        """Unpin it, before it is freed. No read may be in flight.

        Raises:
            CudaError: cuFile failed.
        """
        try:
            self._cufile.buf_deregister(self._address)
        except (self._cufile.cuFileError, RuntimeError) as error:
            raise CudaError(f"cuFile cannot unpin device memory: {error}") from error


@functools.cache
def no_driver() -> str | None:
    """Return why cuFile reads nothing directly on this machine; None if it may. The answer stays for the process.

    Without the kernel module nvidia-fs, and without PCI P2PDMA in its configuration, cuFile is not opened: that takes
    time, and may make contexts on GPUs and write a `cufile.log`.

    With `allow_compat_mode`, its default, cuFile takes any file, and copies through host memory itself what it cannot
    read directly. With nvidia-fs the file system then tells which files those are. With P2PDMA nothing does, so it is
    used only if that mode is off: a file that cuFile then takes is one that it reads directly.
    """
    try:
        cufile = _bindings()
    except ImportError as error:
        return f"cuda-bindings with cuFile is not installed ({error}): {_INSTALL}"
    if not _NVIDIA_FS.exists() and not _p2pdma_is_configured():
        return (
            "the kernel module nvidia-fs is not loaded, and PCI P2PDMA is not switched on "
            "(use_pci_p2pdma in cufile.json, or CUFILE_USE_PCIP2PDMA=true)"
        )
    found = _Properties()
    try:
        cufile.driver_open()  # for good: others of the process may use it, too
        cufile.driver_get_properties(ctypes.addressof(found))
        has_module = bool(found.major or found.minor)
        if not has_module and not cufile.get_parameter_bool(_USE_PCIP2PDMA):
            return "cuFile finds no kernel module nvidia-fs, and PCI P2PDMA is off (CUDA's `gdscheck.py -p` tells more)"
        if not has_module and cufile.get_parameter_bool(_ALLOW_COMPAT_MODE):
            return (
                "cuFile is in compatibility mode, in which it does not tell which files PCI P2PDMA reads: "
                "set allow_compat_mode to false in cufile.json, or CUFILE_ALLOW_COMPAT_MODE=false"
            )
    except (cufile.cuFileError, RuntimeError, OSError) as error:
        return f"cuFile cannot be used: {error}"
    compatible = found.control >> _ALLOW_COMPAT_MODE & 1
    if has_module and compatible and not os.access("/run/udev", os.R_OK):
        return "/run/udev cannot be read; in a container, start it with --volume /run/udev:/run/udev:ro"
    return None


def _p2pdma_is_configured() -> bool:
    """Return whether P2PDMA is switched on where cuFile would read so. cuFile itself then says whether that is so."""
    variable = os.environ.get("CUFILE_USE_PCIP2PDMA")
    if variable is not None:
        return variable.lower() in ("1", "true")
    try:
        text = Path(os.environ.get("CUFILE_ENV_PATH_JSON") or _CONFIGURATION).read_text("utf-8", "replace")
    except OSError:
        return False
    # In `properties`, and for kinds of block devices. The file may have // comments.
    return re.search(r'^[^/\n]*"use_pci_p2pdma"\s*:\s*true', text, re.MULTILINE) is not None


def _bindings() -> Any:
    return importlib.import_module("cuda.bindings.cufile")


@functools.cache
def _read_call() -> Read:
    """Return `cuFileRead`, of the library that cuda-bindings uses. It releases the GIL."""
    _bindings().get_version()  # loads it
    read = ctypes.CDLL("libcufile.so.0", use_errno=True).cuFileRead
    read.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int64)
    read.restype = ctypes.c_ssize_t
    return read
