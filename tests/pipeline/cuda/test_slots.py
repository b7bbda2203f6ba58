"""How slots go round; on a driver that only waits, and memory that is not page-locked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runai_model_streamer.errors import CudaError
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.cuda.arena import Arena
from runai_model_streamer.pipeline.cuda.slots import Slot, SlotRing, page_locked_slots
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import PATIENCE


class WaitingDriver:
    """Remembers which events were waited for."""

    number, api = 0, None

    def __init__(self) -> None:
        self.waits: list[int] = []
        self.refused = False

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def synchronize_event(self, event: int) -> None:
        if self.refused:
            raise CudaError("cuEventSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS")
        self.waits.append(event)


class OneArena:
    """Lends one arena, which a test makes ready, and remembers what came back."""

    def __init__(self) -> None:
        self.arena = Arena(0, None, 0)
        self.intact: list[bool] = []

    def lend(self, device: int, api: object, staging: Staging) -> Arena:
        self.arena.size = staging.bytes
        return self.arena

    def give_back(self, arena: Arena, staging: Staging, *, intact: bool) -> None:
        assert arena is self.arena
        self.intact.append(intact)


class Slots:
    """A ring, and what it is made of."""

    def __init__(self, count: int = 2, *, ready: bool = True) -> None:
        self.driver = WaitingDriver()
        self.arenas = OneArena()
        self.lifecycle = Lifecycle()
        driver: Any = self.driver
        arenas: Any = self.arenas
        self.ring = SlotRing(driver, self.lifecycle, page_locked_slots(driver, Staging(PAGE, count, 0), arenas))
        if ready:
            self.ready()

    def ready(self) -> None:
        self.arenas.arena.memory.set_result(memoryview(bytearray(self.arenas.arena.size)))

    def copied(self, slot: Slot, event: int) -> None:
        slot.event = event
        self.ring.copying(slot)

    def acquire_in_a_thread(self) -> tuple[threading.Thread, list[object]]:
        got: list[object] = []

        def run() -> None:
            try:
                got.append(self.ring.acquire())
            except (Stopped, CudaError) as error:
                got.append(type(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, got


def test_slots_are_pieces_of_one_arena() -> None:
    slots = Slots(3)
    addresses = [slots.ring.acquire().address for _ in range(3)]
    assert [address - addresses[0] for address in addresses] == [0, PAGE, 2 * PAGE]
    assert slots.ring.bytes == 3 * PAGE


def test_a_slot_that_was_given_back_is_taken_first() -> None:
    slots = Slots(8)
    first = slots.ring.acquire()
    slots.ring.give_back(first)
    assert slots.ring.acquire() is first


def test_an_unused_one_is_taken_rather_than_waited_for() -> None:
    slots = Slots()
    first = slots.ring.acquire()
    slots.copied(first, 1)
    assert slots.ring.acquire() is not first
    assert slots.driver.waits == []


def test_when_all_are_in_use_the_oldest_copy_is_waited_for() -> None:
    slots = Slots()
    first, second = slots.ring.acquire(), slots.ring.acquire()
    slots.copied(second, 2)
    slots.copied(first, 1)
    assert slots.ring.acquire() is second
    assert slots.driver.waits == [2]


@pytest.mark.parametrize("end", ["close", "fail"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_wait_ends_with_the_load(end: str, ready: bool) -> None:
    slots = Slots(ready=ready)
    held = [slots.ring.acquire(), slots.ring.acquire()] if ready else []
    waiting = [slots.acquire_in_a_thread() for _ in range(3)]
    if end == "close":
        slots.lifecycle.close()
    else:
        slots.lifecycle.fail(CudaError("gone"))
    for thread, _ in waiting:
        thread.join(PATIENCE)
    assert [got for _, got in waiting] == [[Stopped]] * 3
    assert len(held) == slots.ring.held


def test_a_wait_for_the_arena_ends_when_it_is_there() -> None:
    slots = Slots(ready=False)
    thread, got = slots.acquire_in_a_thread()
    slots.ready()
    thread.join(PATIENCE)
    assert [type(each) for each in got] == [Slot]


def test_an_arena_that_cannot_be_made_is_an_error_for_every_reader() -> None:
    slots = Slots(ready=False)
    waiting = [slots.acquire_in_a_thread() for _ in range(2)]
    slots.arenas.arena.memory.set_exception(CudaError("cuMemHostAlloc failed"))
    for thread, _ in waiting:
        thread.join(PATIENCE)
    assert [got for _, got in waiting] == [[CudaError]] * 2
    assert slots.ring.held == 0


def test_a_wait_for_another_reader_ends_when_that_gives_its_slot_back() -> None:
    slots = Slots()
    held = [slots.ring.acquire(), slots.ring.acquire()]
    thread, got = slots.acquire_in_a_thread()
    slots.ring.give_back(held[0])
    thread.join(PATIENCE)
    assert got == [held[0]]


def test_a_slot_whose_copy_failed_is_not_used_again() -> None:
    slots = Slots()
    first, second = slots.ring.acquire(), slots.ring.acquire()
    slots.copied(first, 1)
    slots.driver.refused = True
    with pytest.raises(CudaError, match="cuEventSynchronize"):
        slots.ring.acquire()
    assert slots.ring.held == 1
    slots.ring.give_back(second)
    assert slots.ring.acquire() is second


@pytest.mark.parametrize("intact", [True, False])
def test_the_arena_goes_back_at_the_close(intact: bool) -> None:
    slots = Slots()
    slots.ring.give_back(slots.ring.acquire())
    slots.ring.close(intact=intact)
    slots.ring.close(intact=intact)
    assert slots.arenas.intact == [intact]
    assert slots.ring.bytes == 0


def test_while_a_reader_holds_a_slot_the_arena_does_not_go_back() -> None:
    slots = Slots()
    held = slots.ring.acquire()
    slots.ring.close(intact=True)
    assert slots.arenas.intact == []
    slots.ring.give_back(held)
    assert slots.arenas.intact == [True]
