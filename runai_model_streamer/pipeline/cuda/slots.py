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

    __slots__ = ("address", "event", "memory", "pieces")

    def __init__(self, address: int, memory: memoryview, pieces: range) -> None:
        self.address = address
        self.pieces = pieces
        """Which pieces of the ring's memory it takes."""
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

    staging: Staging
    """Its pieces, and how many of them a slot may take."""
    size: int
    """Its bytes; at least those of the pieces."""
    ready: Future[Any]
    """Done when it can be cut, or when it is known that it cannot."""
    cut: Callable[[range], Slot]
    """Makes a slot of these pieces, once it is ready. Raises the error that prevented that."""
    end_use: EndUse


def page_locked_slots(driver: CudaDriver, staging: Staging, arenas: Arenas) -> SlotMemory:
    """Borrow page-locked memory for the slots of a load."""
    arena = arenas.lend(driver.number, driver.api, staging)

    def cut(pieces: range) -> Slot:
        memory = arena.memory.result()[staging.size * pieces.start : staging.size * pieces.stop]
        return Slot(address_of(memory), memory, pieces)

    return SlotMemory(staging, arena.size, arena.memory, cut, partial(arenas.give_back, arena, staging))


class SlotRing:
    """The slots of one load. Each goes from `acquire` to `copying` or `give_back`.

    A slot is one piece of the memory. For a read that is larger, it is as many adjacent pieces as the read takes.

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
        self._free = bytearray()  # 1 for each piece that is in no slot; empty until the memory is ready
        self._made: dict[range, Slot] = {}  # each keeps its event
        self._copying: deque[Slot] = deque()  # oldest copy first
        self._closed = False
        self._intact = True
        self.held = 0
        """Slots that readers hold."""
        self._size = memory.staging.size
        self._memory: SlotMemory | None = memory
        memory.ready.add_done_callback(lambda _: self._wake())
        lifecycle.on_stop(self._wake)

    @property
    def bytes(self) -> int:
        """Bytes of the memory that the load has; 0 after its end."""
        memory = self._memory
        return 0 if memory is None else memory.size

    def acquire(self, length: int) -> Slot:
        """Return a slot for a read of so many bytes: an unused one, else the one whose copy ends first.

        The calling thread is attached to the driver. It waits for the arena, for a slot that another reader holds, or
        for the oldest copy that nobody waits for. The GPU finishes that copy even if the load ends. Other waits end
        with the load.

        Raises:
            Stopped: the load has ended.
            CudaError: a copy failed, or the system cannot page-lock the arena.
            OutOfMemoryError: the system has no memory for the arena.
        """
        pieces = -(-length // self._size)
        while True:
            with self._lock:
                self._lifecycle.check()
                slot = self._unused(pieces)
                while slot is None and not self._copying:
                    self._wait(pieces)
                    self._lifecycle.check()
                    slot = self._unused(pieces)
                self.held += 1
                if slot is not None:
                    return slot
                slot = self._copying.popleft()
            try:
                assert slot.event is not None
                self._driver.synchronize_event(slot.event)
            except BaseException:
                self.strand()
                raise
            if len(slot.pieces) == pieces:
                return slot
            self.give_back(slot)

    def _unused(self, count: int) -> Slot | None:
        """Return a slot of so many adjacent pieces that are in no slot, if there are any, with the lock held."""
        first = self._pieces().find(b"\1" * count)
        if first < 0:
            return None
        pieces = range(first, first + count)
        slot = self._made.get(pieces)
        if slot is None:
            assert self._memory is not None
            slot = self._made[pieces] = self._memory.cut(pieces)
        self._free[first : first + count] = bytes(count)
        return slot

    def _wait(self, count: int) -> None:
        """Wait for adjacent pieces or for a copy, with the lock held."""
        wanted = b"\1" * count
        self._waiting += 1
        try:
            self._changed.wait_for(
                lambda: self._copying or wanted in self._pieces() or not self._lifecycle.running,
            )
        finally:
            self._waiting -= 1

    def _pieces(self) -> bytearray:
        """Return 1 for each piece that is in no slot and 0 for the others; nothing until the memory is ready."""
        if not self._free and self._memory is not None and self._memory.ready.done():
            self._free = bytearray(b"\1" * self._memory.staging.slots)
        return self._free

    def copying(self, slot: Slot) -> None:
        """Note that the slot's copy is queued and its event recorded."""
        with self._lock:
            self._copying.append(slot)
            ended = self._let_go()
        if ended:
            self._end()

    def give_back(self, slot: Slot) -> None:
        """Return a slot that is neither read nor written."""
        with self._lock:
            pieces = slot.pieces
            self._free[pieces.start : pieces.stop] = b"\1" * len(pieces)
            ended = self._let_go()
        if ended:
            self._end()

    def strand(self) -> None:
        """Retire a slot whose copy may still run; it is not used again."""
        with self._lock:
            ended = self._let_go()
        if ended:
            self._end()

    def _let_go(self) -> bool:
        """Count a slot less that readers hold, with the lock held. Return whether it was the last of a closed ring."""
        self.held -= 1
        if self._waiting:
            self._changed.notify_all()  # what one waits for may not do for another
        return self._closed and not self.held

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
        self._made.clear()
        self._copying.clear()
        if memory is not None:
            memory.end_use(intact=self._intact)

    def _wake(self) -> None:
        with self._lock:
            self._changed.notify_all()
