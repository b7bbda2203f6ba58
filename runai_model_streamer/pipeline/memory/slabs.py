"""A slab of host memory that a group lands in, and the lease of it to that group."""

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
from runai_model_streamer.ranges import HUGE_PAGE, round_up

FORKS_COPY_MORE: Final = kernel_release() < (5, 19)
"""Whether a fork while direct reads fill a slab can lose bytes.

After a fork, the parent's next write to a page copies that page. Kernels before 5.8 copy the whole huge page, and reads
in flight go on filling the old one. Newer kernels copy only the page written to, which no read in flight fills. Since
5.19 they also know which pages are pinned.
"""

Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]

Root: TypeAlias = Bytes | torch.Tensor
"""The object that one group's tensors are made from, and keep alive."""


class GroupMemory(ABC):
    """Host memory for one group at a time, as the pool accounts for it.

    Args:
        capacity: the bytes that it can hold.
        charge: the bytes that it counts for.
    """

    __slots__ = ("capacity", "charge", "charged", "root_ref")

    recycled: ClassVar[bool]
    """Whether the pool reuses it once nothing made from it is alive."""

    def __init__(self, capacity: int, charge: int = 0) -> None:
        self.capacity = capacity
        """The bytes that it can hold."""
        self.charge = charge
        """The bytes that it counts for in the memory limit: at least those of the largest group it has held."""
        self.charged = True
        """Whether it counts in the limit. It does not while only the caller keeps it."""
        self.root_ref: weakref.ref[Any] | None = None
        """Reports when nothing made from it is alive."""

    @abstractmethod
    def memory(self) -> memoryview:
        """Return its bytes, for reads to land in."""

    @abstractmethod
    def root(self) -> Root:
        """Return all its bytes, to make one group's tensors from. Call it after `memory`."""

    @abstractmethod
    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """Call `gone`, in any thread, when nothing made from the root is alive."""

    @abstractmethod
    def hide_from_children(self, hide: bool) -> None:
        """Keep it out of forked children while reads fill it."""


def _in_huge_pages(capacity: int) -> int:
    """Return the bytes of a slab, from its start on, that are asked for as huge pages."""
    return capacity - capacity % HUGE_PAGE


class Slab(GroupMemory):
    """A private anonymous mapping, page-aligned. It asks for huge pages, since page faults are most of its cost.

    Memory that is never touched costs nothing. Only reference counts free the mapping, never a call: anything made from
    it keeps it alive.

    Args:
        capacity: in bytes, whole pages.
        hides: whether `hide_from_children` has an effect.

    Raises:
        OSError: the operating system has no more memory.
    """

    __slots__ = ("_hides", "_mapping", "_offset")

    recycled = True

    def __init__(self, capacity: int, *, hides: bool = FORKS_COPY_MORE) -> None:
        super().__init__(capacity)
        self._hides = hides
        huge = capacity >= HUGE_PAGE
        # Slack, to align the first huge page. It is never touched, so it costs nothing.
        length = capacity + HUGE_PAGE if huge else capacity
        # By default Python maps anonymous memory as shared, which gets no huge pages.
        self._mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._offset = 0
        if huge:
            self._offset = -ctypes.addressof(ctypes.c_char.from_buffer(self._mapping)) % HUGE_PAGE
            # Whole huge pages only: the rest gets small pages, so that only memory in use becomes resident.
            self._advise(mmap.MADV_HUGEPAGE, self._offset, _in_huge_pages(capacity))

    @staticmethod
    def resident(size: int, capacity: int) -> int:
        """Return the bytes that become resident in a slab of this capacity when `size` of them are written."""
        return round_up(size, HUGE_PAGE) if size <= _in_huge_pages(capacity) else size

    def memory(self) -> memoryview:
        """Return its bytes, for reads to land in."""
        return memoryview(self._mapping)[self._offset : self._offset + self.capacity]

    def root(self) -> Bytes:
        """Return a new array over its bytes. NumPy and torch keep it as the base of all views of it.

        It must not be a slice of a longer-lived array: NumPy collapses bases, so a weak reference on a slice would
        fire while views of its base are still alive.
        """
        return np.frombuffer(self._mapping, np.uint8, self.capacity, self._offset)

    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """Keep a weak reference on the root, which dies with the last tensor."""
        self.root_ref = weakref.ref(root, gone)

    def hide_from_children(self, hide: bool) -> None:
        """Keep the slab out of forked children while reads fill it, where `FORKS_COPY_MORE`.

        Elsewhere it would only cost time: the call waits, with the GIL held, for page faults of other threads (see
        benchmarks/RUNS.md).
        """
        if self._hides:
            self._advise(mmap.MADV_DONTFORK if hide else mmap.MADV_DOFORK)

    def _advise(self, advice: int, start: int = 0, length: int | None = None) -> None:
        with contextlib.suppress(OSError):  # a kernel built without this advice
            self._mapping.madvise(advice, start, len(self._mapping) if length is None else length)


class OtherMemory(Protocol):
    """Memory for groups that the pool neither maps nor reuses."""

    required: bool
    """Whether groups get only this memory."""

    def size_for(self, group: Group) -> int | None:
        """Return the bytes that it would allocate for the group; None if the group should get a slab."""
        ...

    def take(self, group: Group, size: int) -> GroupMemory | None:
        """Allocate `size` bytes for the group. Return None if that fails and this memory is not required.

        Raises:
            OutOfMemoryError: it fails, and this memory is required.
        """
        ...


class Lease:
    """One group's use of a slab, from the first read into it until its tensors have been made."""

    __slots__ = ("group", "memory", "root", "slab")

    def __init__(self, slab: GroupMemory, group: Group) -> None:
        self.slab = slab
        self.group = group
        self.memory = slab.memory()
        """The memory that reads land in."""
        self.root: Root | None = slab.root()
        """The object that tensors are made from. It, and anything made from it, keeps the slab in use."""

    def hide_from_children(self, hide: bool) -> None:
        """Keep the slab out of forked children while reads fill it."""
        self.slab.hide_from_children(hide)
