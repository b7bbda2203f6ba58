"""One piece of host memory that a group lands in, and its lease to that group."""

import contextlib
import ctypes
import mmap
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import numpy as np
import torch

from runai_model_streamer.io.libc import kernel_release
from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.ranges import HUGE_PAGE

FORKS_COPY_MORE: Final = kernel_release() < (5, 19)
"""Whether a fork while direct reads fill a slab can lose bytes of it.

After a fork the parent's next write to a page has it copied. Old kernels (before 5.8) then copy the whole huge page,
and reads in flight go on filling the one that was left behind. Newer ones copy just the page that is written to, and
no read in flight goes there; since 5.19 they know what is pinned, too.
"""

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]

Root: TypeAlias = Bytes | torch.Tensor
"""What the tensors of one group are made from, and keep alive."""


class GroupMemory(ABC):
    """Host memory for one group at a time, as the pool accounts for it.

    Args:
        capacity: bytes that it can hold.
        charge: see there.
    """

    __slots__ = ("capacity", "charge", "charged", "root_ref")

    recycled: ClassVar[bool]
    """Whether it serves another group when nothing made from it is alive any more."""

    def __init__(self, capacity: int, charge: int = 0) -> None:
        self.capacity = capacity
        """Bytes that it can hold."""
        self.charge = charge
        """Bytes that it counts for against the memory limit: at least for the largest group that has been in it."""
        self.charged = True
        """Whether it is counted: not while only the caller keeps it."""
        self.root_ref: weakref.ref[Any] | None = None
        """Tells when nothing made from it is alive any more."""

    @abstractmethod
    def memory(self) -> memoryview:
        """Its bytes, for reads to land in."""

    @abstractmethod
    def root(self) -> Root:
        """All its bytes, for the tensors of one group to be made from; asked for after `memory`."""

    @abstractmethod
    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """Have `gone` called, in any thread, when nothing made from the root is alive any more."""

    @abstractmethod
    def hide_from_children(self, hide: bool) -> None:
        """Keep it out of forked children while reads fill it."""


class Slab(GroupMemory):
    """A private anonymous mapping, page-aligned, with huge pages advised: most of the cost of fresh memory is faults.

    Memory that is never touched costs nothing. The mapping is freed by reference counts alone, never by hand: whatever
    is still made from it keeps it.

    Args:
        capacity: bytes, whole pages.
        hides: whether `hide_from_children` does anything.

    Raises:
        OSError: the operating system gives no more memory.
    """

    __slots__ = ("_hides", "_mapping", "_offset")

    recycled = True

    def __init__(self, capacity: int, *, hides: bool = FORKS_COPY_MORE) -> None:
        super().__init__(capacity)
        self._hides = hides
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

    def memory(self) -> memoryview:
        """Its bytes, for reads to land in."""
        return memoryview(self._mapping)[self._offset : self._offset + self.capacity]

    def root(self) -> Bytes:
        """A new array over its bytes, which owns no data: NumPy and torch keep it as the base of what they cut from it.

        Not a slice of a longer-lived array: NumPy collapses bases, so a weak reference on a slice would fire while
        tensors cut from its base live.
        """
        return np.frombuffer(self._mapping, np.uint8, self.capacity, self._offset)

    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """See `GroupMemory.watch`."""
        self.root_ref = weakref.ref(root, gone)

    def hide_from_children(self, hide: bool) -> None:
        """Keep the slab out of forked children while reads fill it, where `FORKS_COPY_MORE`.

        Not elsewhere: it waits for whoever faults a page in beside it, with the GIL held (warm 4 GB on 2 CPUs take
        6% longer).
        """
        if self._hides:
            self._advise(mmap.MADV_DONTFORK if hide else mmap.MADV_DOFORK)

    def _advise(self, advice: int, start: int = 0, length: int | None = None) -> None:
        with contextlib.suppress(OSError):  # a kernel built without it
            self._mapping.madvise(advice, start, len(self._mapping) if length is None else length)


class OtherMemory(Protocol):
    """Memory for groups that is not mapped by the pool, nor used again by it."""

    required: bool
    """Whether groups get no other."""

    def size_for(self, group: Group) -> int | None:
        """Bytes that it would take for the group; None where the group is to have a slab."""
        ...

    def take(self, group: Group, size: int) -> GroupMemory | None:
        """So many bytes for the group; None, unless required, where there are none.

        Raises:
            OutOfMemoryError: there are none.
        """
        ...


class Lease:
    """A slab given to one group, from the first read into it until its tensors have been made."""

    __slots__ = ("group", "memory", "root", "slab")

    def __init__(self, slab: GroupMemory, group: Group) -> None:
        self.slab = slab
        self.group = group
        self.memory = slab.memory()
        """Where reads land."""
        self.root: Root | None = slab.root()
        """What tensors are made from. Whoever holds it, or anything made from it, holds the slab."""

    def hide_from_children(self, hide: bool) -> None:
        """See `GroupMemory.hide_from_children`."""
        self.slab.hide_from_children(hide)
