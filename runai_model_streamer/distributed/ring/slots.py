"""Makes memory that the processes of a node share. It has no name, and goes with the last process that maps it."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Final

from typing_extensions import override

from runai_model_streamer.io.libc import libc
from runai_model_streamer.ranges import HUGE_PAGE, PAGE
from runai_model_streamer.threads.forks import Holder, keep_in_children

# The kernel's numbers: Python has names for them only if it was built with a newer C library than conda's.
_CLOSE_ON_EXEC, _ALLOW_SEALING = 1, 2
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEALS: Final = 1 | 2 | 4
"""No more seals, no shrinking, no growing. If a file shrinks, the processes that map it may be killed (SIGBUS)."""

_MAP_FIXED: Final = 0x10
_COLLAPSE: Final = 25
"""MADV_COLLAPSE, since Linux 6.1: make huge pages now. For shared memory no other way works by default."""

MEMFD_CREATE: Final = {"x86_64": 319, "aarch64": 279}
"""Machine -> number of the system call."""


class Slots(Holder):
    """Slots of equal size in one mapping.

    The mapping goes when nothing made from it is alive, and the memory with the last process that maps it. Forked
    children do not have it.

    Args:
        count: number of slots.
        size: bytes of a slot; whole pages.
        file: descriptor of the shared memory; it stays the caller's. None for memory of this process only.

    Raises:
        OSError: it cannot be mapped, or has another size, or lacks the seals.
    """

    def __init__(self, count: int, size: int, file: int | None = None) -> None:
        self.count, self.size = count, size
        length = count * size
        if file is not None and (os.fstat(file).st_size != length or fcntl.fcntl(file, _GET_SEALS) & _SEALS != _SEALS):
            raise OSError(0, "another rank's shared memory is not of the size agreed on")
        self._mapping, self._offset = _mapped(max(length, PAGE), file)
        for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_DONTFORK):
            with contextlib.suppress(OSError):
                self._mapping.madvise(advice)
        keep_in_children(self)

    @override
    def missing_in_children(self) -> Iterable[object]:
        return (self._mapping,)

    @property
    def memory(self) -> memoryview:
        """All slots, one after the other."""
        return memoryview(self._mapping)[self._offset : self._offset + self.count * self.size]

    def slot(self, index: int, length: int) -> memoryview:
        """Return the first `length` bytes of a slot."""
        start = self._offset + index * self.size
        return memoryview(self._mapping)[start : start + length]


def create(count: int, size: int, calls: Mapping[str, int] = MEMFD_CREATE) -> int:
    """Make shared memory for the slots, and return its descriptor. All of it is allocated now, while there is some.

    Args:
        count: number of slots.
        size: bytes of a slot; whole pages.
        calls: machine -> number of the system call, for a Python without `os.memfd_create`.

    Raises:
        OSError: this machine has no such memory, or not enough.
    """
    file = _anonymous_file(calls)
    try:
        os.ftruncate(file, count * size)
        _make_huge(file, count * size)
        os.posix_fallocate(file, 0, count * size)
        fcntl.fcntl(file, _ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


def _mapped(length: int, file: int | None) -> tuple[mmap.mmap, int]:
    """Map a file, or private memory, at a multiple of a huge page. Return the mapping, and where in it that begins."""
    # Slack, to align the first huge page. It is never touched, so it costs nothing.
    mapping = mmap.mmap(-1, length + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    offset = -start % HUGE_PAGE
    if file is not None:
        # Over the private memory: Python's own call chooses the address itself.
        address, size, place = ctypes.c_void_p(start + offset), ctypes.c_size_t(length), ctypes.c_long(0)
        allowed, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
        if libc().mmap(address, size, allowed, flags, file, place) == -1:
            failed = ctypes.get_errno()
            raise OSError(failed, os.strerror(failed))
    return mapping, offset


def _make_huge(file: int, length: int) -> None:
    """Make huge pages of the file's memory, where the kernel can: whole ones only.

    A direct read of 1 MiB into small pages has 256 pieces. A virtual disk takes 254 in one request, so it would get two
    requests for each. With huge pages two ranks load 1.5 times as fast from it (benchmarks/RUNS.md).
    """
    whole = length - length % HUGE_PAGE
    if not whole:
        return
    for place in range(0, whole, HUGE_PAGE):
        os.pwrite(file, b"\0", place)  # the kernel makes a huge page only around a page that is there
    mapping, offset = _mapped(whole, file)
    with contextlib.suppress(OSError):  # an older kernel, or no free huge page
        mapping.madvise(_COLLAPSE, offset, whole)


def _anonymous_file(calls: Mapping[str, int]) -> int:
    name, flags = "runai-streamer-ring", _CLOSE_ON_EXEC | _ALLOW_SEALING
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, flags)
    number = calls.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    file = libc().syscall(number, name.encode(), flags)
    if file < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return int(file)
