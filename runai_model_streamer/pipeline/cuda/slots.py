"""Pinned slots: host memory for bytes between their read and their copy to the GPU.

A slot is free, then held by a reader that fills it, then copying, then free again. It becomes free only when the event
behind its copy has happened, since the GPU reads the slot until then.

On this path, `RUNAI_STREAMER_MEMORY_LIMIT` bounds the sum of all slots. Slots are allocated on demand: page-locking
memory costs as much as reading the same bytes from memory.
"""

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from runai_model_streamer.errors import CudaError, RunaiStreamerMemoryLimitException
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.ranges import PAGE, round_down

LEAST: Final = 2
"""The fewest slots: a reader fills one while the other is copied."""

MAX_BYTES: Final = 256 << 20
"""Bytes of all slots, without a limit or with limit 0. Chunks above half of it are cut."""


class Staging(NamedTuple):
    """The pinned memory of a load."""

    size: int
    """Bytes of a slot, and the most bytes of one read; whole pages."""
    slots: int
    """The most slots; at least two."""


def staging_for(limit: int | None, chunk: int, concurrency: int) -> Staging:
    """Return the slots of a load: one for each read in flight and two being copied, if the limit allows that.

    More slots would not help, since a copy over PCIe usually takes less time than the read before it.

    Args:
        limit: bytes of all slots together; None for `MAX_BYTES`, 0 for the minimum that double-buffers.
        chunk: bytes of the largest read, whole pages. If two chunks exceed the limit, reads are smaller.

    Raises:
        RunaiStreamerMemoryLimitException: the limit is less than two pages.
    """
    wanted = max(concurrency, 1) + 2
    if limit is None:
        limit = MAX_BYTES
    elif limit == 0:
        limit, wanted = MAX_BYTES, LEAST
    elif limit < LEAST * PAGE:
        raise RunaiStreamerMemoryLimitException(
            f"RUNAI_STREAMER_MEMORY_LIMIT={limit} is too small to stage anything for the GPU in",
            remedy=f"set it to {LEAST * PAGE} or more, or to 0 for what two reads need",
        )
    size = min(chunk, round_down(limit // LEAST, PAGE))
    return Staging(size, min(wanted, limit // size))


class Slot:
    """A piece of pinned memory, and the event behind its copy."""

    __slots__ = ("address", "event", "memory")

    def __init__(self, address: int, size: int, event: int) -> None:
        self.address = address
        self.event = event
        self.memory = memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")
        """Its bytes. Valid until the ring closes or, if a reader holds the slot then, until it is given back."""


class SlotRing:
    """The slots of one load. Each goes from `acquire` to `copying` or `give_back`.

    Args:
        staging: number and size of the slots.
        lifecycle: the load's; its end ends a waiting `acquire`.
    """

    def __init__(self, driver: CudaDriver, staging: Staging, lifecycle: Lifecycle) -> None:
        self._driver = driver
        self._staging = staging
        self._lifecycle = lifecycle
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._free: list[Slot] = []
        self._copying: deque[Slot] = deque()  # oldest copy first
        self._stranded: list[Slot] = []
        self._closed = False
        self.held = 0
        """Slots that readers hold."""
        self.made = 0
        """Slots made so far."""
        lifecycle.on_stop(self._wake)

    def acquire(self) -> Slot:
        """Return a slot to fill: a used one whose copy is done, else a new one, else the one whose copy ends first.

        Readers wait in a queue, and the first of them waits for the oldest copy. The GPU finishes that copy even if the
        load ends. A wait for slots that other readers fill ends with the load.

        Raises:
            Stopped: the load has ended.
            CudaError: a copy failed, or the system cannot page-lock more memory.
        """
        with self._turn:
            with self._changed:
                self._changed.wait_for(lambda: self._available() or not self._lifecycle.running)
                self._lifecycle.check()
                self.held += 1
                if self._free:
                    return self._free.pop()
                slot = self._copying.popleft() if self._copying else None
            if slot is None:
                return self._make()
            return self._reuse(slot)

    def _available(self) -> bool:
        return bool(self._free or self._copying) or self.made < self._staging.slots

    def _reuse(self, slot: Slot) -> Slot:
        try:
            with self._driver.current():
                if self._driver.happened(slot.event):
                    return slot
                if self.made == self._staging.slots:
                    self._driver.synchronize_event(slot.event)
                    return slot
        except BaseException:
            self.strand(slot)
            raise
        with self._changed:
            self._copying.appendleft(slot)
        return self._make()

    def _make(self) -> Slot:
        undo: list[Callable[[], object]] = [self._let_go]
        try:
            with self._driver.current():
                address = self._driver.allocate_pinned(self._staging.size)
                undo.append(partial(self._driver.free_pinned, address))
                event = self._driver.create_event()
                undo.append(partial(self._driver.destroy_event, event))
        except BaseException:
            with contextlib.suppress(CudaError):
                self._driver.release(undo)
            raise
        self.made += 1
        return Slot(address, self._staging.size, event)

    def _let_go(self) -> None:
        with self._changed:
            self.held -= 1
            self._changed.notify_all()

    def copying(self, slot: Slot) -> None:
        """Note that the slot's copy is queued and its event recorded."""
        self._copying.append(slot)
        self._let_go()

    def give_back(self, slot: Slot) -> None:
        """Return a slot that is neither read nor written."""
        with self._changed:
            closed = self._closed
            if not closed:
                self._free.append(slot)
        self._let_go()
        if closed:
            self._driver.release(self._freeing([slot]))

    def strand(self, slot: Slot) -> None:
        """Retire a slot whose copy may still run; it is not used again."""
        self._stranded.append(slot)
        self._let_go()

    def close(self) -> None:
        """Free the slots, after all copies are done. A slot that a reader holds is freed when it is given back.

        Raises:
            CudaError: a slot could not be freed.
        """
        with self._changed:
            self._closed = True
            slots = [*self._free, *self._copying, *self._stranded]
            self._free.clear()
            self._copying.clear()
            self._stranded.clear()
        self._driver.release(self._freeing(slots))

    def _freeing(self, slots: Iterable[Slot]) -> Iterator[Callable[[], object]]:
        for slot in slots:
            yield partial(self._driver.free_pinned, slot.address)
            yield partial(self._driver.destroy_event, slot.event)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
