"""Slots: pieces of memory for bytes between their read and their copy to the tensors on the GPU.

They are page-locked host memory, or device memory that GPUDirect reads into (`direct`).

A slot is free, then held by a reader that fills it, then copying, then free again. It becomes free only when the event
after its copy has happened, since the GPU reads the slot until then.

On this path, `RUNAI_STREAMER_MEMORY_LIMIT` bounds the sum of all slots.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol

from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.cuda.arena import Arenas, address_of
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.staging import Staging


class Slot:
    """A piece of memory that a read fills, and the event after its copy."""

    __slots__ = ("address", "event", "memory")

    def __init__(self, address: int, memory: memoryview) -> None:
        self.address = address
        self.memory = memory
        """The slot's bytes, if they are host memory. The reader that holds the slot may write them, even after the ring
        has closed."""
        self.event: int | None = None
        """Recorded after the slot's copy; None before the first copy."""


class EndUse(Protocol):
    """Takes the memory of a ring that has ended."""

    def __call__(self, *, intact: bool) -> None:
        """Take it. If it is not `intact`, copies from it may be pending."""
        ...


class SlotMemory(NamedTuple):
    """Memory to be cut into slots."""

    size: int
    """Its bytes."""
    ready: Future[Any]
    """Done when it can be cut, or when it is known that it cannot."""
    cut: Callable[[], list[Slot]]
    """Cuts it, once it is ready. Raises the error that prevented that."""
    end_use: EndUse


def page_locked_slots(driver: CudaDriver, staging: Staging, arenas: Arenas) -> SlotMemory:
    """Borrow page-locked memory for the slots of a load."""
    arena = arenas.lend(driver.number, driver.api, staging)

    def cut() -> list[Slot]:
        memory, size = arena.memory.result(), staging.size
        pieces = [memory[size * index :][:size] for index in range(staging.slots)]
        return [Slot(address_of(piece), piece) for piece in pieces]

    return SlotMemory(arena.size, arena.memory, cut, partial(arenas.give_back, arena, staging))


class SlotRing:
    """The slots of one load. Each goes from `acquire` to `copying` or `give_back`.

    Args:
        driver: the device's driver.
        lifecycle: the load's; its end ends a waiting `acquire`.
        memory: what the slots are cut from. Its use ends with the ring.
    """

    def __init__(self, driver: CudaDriver, lifecycle: Lifecycle, memory: SlotMemory) -> None:
        self._driver = driver
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._free: list[Slot] = []
        self._copying: deque[Slot] = deque()  # oldest copy first
        self._closed = False
        self._intact = True
        self._made = False
        self.held = 0
        """Slots that readers hold."""
        self._memory: SlotMemory | None = memory
        memory.ready.add_done_callback(lambda _: self._wake())
        lifecycle.on_stop(self._wake)

    @property
    def bytes(self) -> int:
        """Bytes of the memory that the load has; 0 after its end."""
        memory = self._memory
        return 0 if memory is None else memory.size

    def acquire(self) -> Slot:
        """Return a slot to fill: an unused one, else the one whose copy ends first.

        The calling thread is attached to the driver. It waits for the arena, for a slot that another reader holds, or
        for the oldest copy that nobody waits for. The GPU finishes that copy even if the load ends. Other waits end
        with the load.

        Raises:
            Stopped: the load has ended.
            CudaError: a copy failed, or the system cannot page-lock the arena.
            OutOfMemoryError: the system has no memory for the arena.
        """
        with self._lock:
            if not self._free and not self._copying:
                self._wait()
            self._lifecycle.check()
            self.held += 1
            if self._free:
                return self._free.pop()
            slot = self._copying.popleft()
        try:
            assert slot.event is not None
            self._driver.synchronize_event(slot.event)
        except BaseException:
            self.strand()
            raise
        return slot

    def _wait(self) -> None:
        """Wait for a slot, with the lock held."""
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: self._available() or not self._lifecycle.running)
        finally:
            self._waiting -= 1
        self._lifecycle.check()
        if not self._made:
            self._make()

    def _available(self) -> bool:
        if self._made:
            return bool(self._free or self._copying)
        return self._memory is not None and self._memory.ready.done()

    def _make(self) -> None:
        assert self._memory is not None
        self._free.extend(reversed(self._memory.cut()))
        self._made = True

    def copying(self, slot: Slot) -> None:
        """Note that the slot's copy is queued and its event recorded."""
        self._let_go(slot, self._copying)

    def give_back(self, slot: Slot) -> None:
        """Return a slot that is neither read nor written."""
        self._let_go(slot, self._free)

    def strand(self) -> None:
        """Retire a slot whose copy may still run; it is not used again."""
        self._let_go(None, self._free)

    def _let_go(self, slot: Slot | None, slots: list[Slot] | deque[Slot]) -> None:
        with self._lock:
            if slot is not None:
                slots.append(slot)
            self.held -= 1
            ended = self._closed and not self.held
            if self._waiting:
                self._changed.notify()
        if ended:
            self._end()

    def close(self, *, intact: bool) -> None:
        """End the use of the memory, once no reader holds a slot.

        Args:
            intact: whether all copies are done. If not, no later load gets the memory.

        Raises:
            CudaError: the memory could not be freed.
        """
        with self._lock:
            self._closed, self._intact = True, intact
            ended = not self.held
        if ended:
            self._end()

    def _end(self) -> None:
        memory, self._memory = self._memory, None
        self._free.clear()
        self._copying.clear()
        if memory is not None:
            memory.end_use(intact=self._intact)

    def _wake(self) -> None:
        with self._lock:
            self._changed.notify_all()
