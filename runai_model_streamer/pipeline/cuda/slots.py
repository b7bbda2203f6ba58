"""Pinned slots: the host memory that bytes wait in, between the read that fetched them and their copy to the GPU.

A slot goes round: free, held by a reader that fills it, copying, and again. It is free when the event behind its copy
has happened, and not before: the copy reads it whenever the GPU gets to it.

The slots together are what `RUNAI_STREAMER_MEMORY_LIMIT` bounds on this path. They are made as they are needed: page
locking costs as much as reading the same bytes from memory does.
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
"""Slots that one of can be filled while the other is copied."""

MAX_BYTES: Final = 256 << 20
"""Without a limit, and with 0: bytes of all slots. A chunk of more than half of it is cut."""


class Staging(NamedTuple):
    """How much pinned memory a load may take."""

    size: int
    """Bytes of a slot, and most bytes of one read; whole pages."""
    slots: int
    """Of them at most; at least two."""


def staging_for(limit: int | None, chunk: int, concurrency: int) -> Staging:
    """The slots of a load: one for each read in flight and two that are being copied, where the limit allows that.

    More would not be faster: a copy over PCIe takes less time than the read that it waits for, mostly.

    Args:
        limit: bytes of all slots together; None for `MAX_BYTES`, 0 for the least that double-buffers.
        chunk: bytes of the largest read, whole pages. Where two of it are more than that, reads are smaller.

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
        """Its bytes. Valid until the ring is closed, or, if a reader holds the slot then, until that gives it back."""


class SlotRing:
    """The slots of one load, each of which goes from `acquire` to `copying` or `give_back`.

    Args:
        staging: how many, and of what size.
        lifecycle: of the load; a waiting `acquire` ends with it.
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
        """A slot to fill: a used one whose copy is done, else a new one, else the one whose copy is done first.

        Readers wait in line, and the first of them for the oldest copy. That one the GPU finishes by itself, whatever
        becomes of the load; a wait for slots that other readers fill ends with the load.

        Raises:
            Stopped: the load has ended meanwhile.
            CudaError: a copy failed, or the system locks no more memory.
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
        """The slot's event has been recorded behind its copy."""
        self._copying.append(slot)
        self._let_go()

    def give_back(self, slot: Slot) -> None:
        """The slot is not read from, nor written to."""
        with self._changed:
            closed = self._closed
            if not closed:
                self._free.append(slot)
        self._let_go()
        if closed:
            self._driver.release(self._freeing([slot]))

    def strand(self, slot: Slot) -> None:
        """Nobody knows when the slot's copy is done: not to be used again."""
        self._stranded.append(slot)
        self._let_go()

    def close(self) -> None:
        """Free the slots. All copies are done. One that a reader still holds is freed when that gives it back.

        Raises:
            CudaError: one of them could not be freed.
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
