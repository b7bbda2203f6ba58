"""Slots: pieces of page-locked host memory for bytes between their read and their copy to the GPU.

A slot is free, then held by a reader that fills it, then copying, then free again. It becomes free only when the event
after its copy has happened, since the GPU reads the slot until then.

On this path, `RUNAI_STREAMER_MEMORY_LIMIT` bounds the sum of all slots.
"""

import threading
from collections import deque

from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.cuda.arena import Arena, Arenas, address_of
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.staging import Staging


class Slot:
    """A piece of page-locked memory, and the event after its copy."""

    __slots__ = ("address", "event", "memory")

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        """The slot's bytes. The reader that holds the slot may write them, even after the ring has closed."""
        self.address = address_of(memory)
        self.event: int | None = None
        """Recorded after the slot's copy; None before the first copy."""


class SlotRing:
    """The slots of one load. Each goes from `acquire` to `copying` or `give_back`.

    Args:
        driver: the device's driver.
        staging: number and size of the slots.
        lifecycle: the load's; its end ends a waiting `acquire`.
        arenas: lends the slots' memory.
    """

    def __init__(self, driver: CudaDriver, staging: Staging, lifecycle: Lifecycle, arenas: Arenas) -> None:
        self._driver = driver
        self._staging = staging
        self._lifecycle = lifecycle
        self._arenas = arenas
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
        self._arena: Arena | None = arenas.lend(driver.number, driver.api, staging)
        self._arena.memory.add_done_callback(lambda _: self._wake())
        lifecycle.on_stop(self._wake)

    @property
    def bytes(self) -> int:
        """Bytes of page-locked memory that the load has; 0 after its end."""
        arena = self._arena
        return 0 if arena is None else arena.size

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
        return self._arena is not None and self._arena.memory.done()

    def _make(self) -> None:
        assert self._arena is not None
        memory = self._arena.memory.result()
        size = self._staging.size
        self._free.extend(Slot(memory[size * index :][:size]) for index in reversed(range(self._staging.slots)))
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
        """Give the arena back, once no reader holds a slot.

        Args:
            intact: whether all copies are done. If not, no later load gets the arena.

        Raises:
            CudaError: the arena could not be freed.
        """
        with self._lock:
            self._closed, self._intact = True, intact
            ended = not self.held
        if ended:
            self._end()

    def _end(self) -> None:
        arena, self._arena = self._arena, None
        self._free.clear()
        self._copying.clear()
        if arena is not None:
            self._arenas.give_back(arena, self._staging, intact=self._intact)

    def _wake(self) -> None:
        with self._lock:
            self._changed.notify_all()
