"""One piece of host memory that a group lands in, and its lease to that group."""

import contextlib
import ctypes
import mmap
import weakref
from typing import Final, TypeAlias

import numpy as np

from runai_model_streamer.io.libc import kernel_release

HUGE_PAGE: Final = 2 << 20
"""Bytes of a transparent huge page on x86-64 and, with 4 KiB pages, on arm64."""

FORKS_COPY_MORE: Final = kernel_release() < (5, 19)
"""Whether a fork while direct reads fill a slab can lose bytes of it.

After a fork the parent's next write to a page has it copied. Old kernels (before 5.8) then copy the whole huge page,
and reads in flight go on filling the one that was left behind. Newer ones copy just the page that is written to, and
no read in flight goes there; since 5.19 they know what is pinned, too.
"""

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Slab:
    """A private anonymous mapping, page-aligned, with huge pages advised: most of the cost of fresh memory is faults.

    Memory that is never touched costs nothing. The mapping is freed by reference counts alone, never by hand: whatever
    is still made from it keeps it.

    Args:
        capacity: bytes, whole pages.

    Raises:
        OSError: the operating system gives no more memory.
    """

    __slots__ = ("_mapping", "_offset", "capacity", "charge", "charged", "root_ref")

    def __init__(self, capacity: int) -> None:
        huge = capacity >= HUGE_PAGE
        # Slack, so that the first huge page can begin at a multiple of its size; untouched, it costs nothing.
        length = capacity + HUGE_PAGE if huge else capacity
        # Python's default for anonymous memory is a shared mapping, which gets no huge pages.
        self._mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._offset = 0
        if huge:
            self._offset = -ctypes.addressof(ctypes.c_char.from_buffer(self._mapping)) % HUGE_PAGE
            # Whole ones only: the rest gets small pages, so that no more becomes resident than is used.
            self._advise(mmap.MADV_HUGEPAGE, self._offset, capacity - capacity % HUGE_PAGE)
        self.capacity = capacity
        """Bytes that it can hold."""
        self.charge = 0
        """Bytes that it counts for against the memory limit: the largest payload that has been in it."""
        self.charged = True
        """Whether it is counted: not while only the caller keeps it."""
        self.root_ref: weakref.ref[Bytes] | None = None
        """Tells when nothing made from it is alive any more."""

    def memory(self) -> memoryview:
        """Its bytes, for reads to land in."""
        return memoryview(self._mapping)[self._offset : self._offset + self.capacity]

    def root(self) -> Bytes:
        """A new array over its bytes, which owns no data: NumPy and torch keep it as the base of what they cut from it.

        Not a slice of a longer-lived array: NumPy collapses bases, so a weak reference on a slice would fire while
        tensors cut from its base live.
        """
        return np.frombuffer(self._mapping, np.uint8, self.capacity, self._offset)

    def hide_from_children(self, hide: bool) -> None:
        """Keep the slab out of forked children while reads fill it, where `FORKS_COPY_MORE`.

        Not elsewhere: it waits for whoever faults a page in beside it, with the GIL held (warm 4 GB on 2 CPUs take
        6% longer).
        """
        if FORKS_COPY_MORE:
            self._advise(mmap.MADV_DONTFORK if hide else mmap.MADV_DOFORK)

    def _advise(self, advice: int, start: int = 0, length: int | None = None) -> None:
        with contextlib.suppress(OSError):  # a kernel built without it
            self._mapping.madvise(advice, start, len(self._mapping) if length is None else length)
