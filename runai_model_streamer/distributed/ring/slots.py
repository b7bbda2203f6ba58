"""Memory that the processes of a node share: anonymous, named nowhere, and gone with the last of them."""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterable
from typing import Final

from runai_model_streamer.ranges import PAGE
from runai_model_streamer.threads.forks import keep_in_children

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""A file that cannot shrink cannot kill a process that has it mapped."""


class Slots:
    """Slots of equal size in one mapping.

    The mapping goes when nothing made from it is alive, and its memory with the last process that maps it. Forked
    children do not have it.

    Args:
        count: of slots.
        size: bytes of a slot, whole pages.
        file: descriptor of the shared memory, which stays the caller's; None for memory of this process.

    Raises:
        OSError: it cannot be mapped, or is not the memory that it should be.
    """

    def __init__(self, count: int, size: int, file: int | None = None) -> None:
        self.count, self.size = count, size
        length = count * size
        if file is None:
            self._mapping = mmap.mmap(-1, max(length, PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            if os.fstat(file).st_size != length or fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise OSError(0, "another rank's shared memory is not of the size agreed on")
            self._mapping = mmap.mmap(file, length, flags=mmap.MAP_SHARED)
        # Huge pages where the machine allows them for shared memory: transparent_hugepage/shmem_enabled.
        for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_DONTFORK):
            with contextlib.suppress(OSError):
                self._mapping.madvise(advice)
        keep_in_children(self)

    def missing_in_children(self) -> Iterable[object]:
        """See `Holder`."""
        return (self._mapping,)

    def slot(self, index: int, length: int) -> memoryview:
        """The first `length` bytes of a slot."""
        start = index * self.size
        return memoryview(self._mapping)[start : start + length]


def create(count: int, size: int) -> int:
    """Descriptor of new shared memory for so many slots. All of it is allocated: later there may be none left.

    Raises:
        OSError: there is no such memory here, or not enough.
    """
    file = os.memfd_create("runai-streamer-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, count * size)
        os.posix_fallocate(file, 0, count * size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file
