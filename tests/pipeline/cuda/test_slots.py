"""How slots go round; on a driver that only waits, and memory that is not page-locked."""

import random
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

    def acquire_in_a_thread(self, pieces: int = 1) -> tuple[threading.Thread, list[object]]:
        got: list[object] = []

        def run() -> None:
            try:
                got.append(self.ring.acquire(pieces * PAGE))
            except (Stopped, CudaError) as error:
                got.append(type(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, got


def test_slots_are_pieces_of_one_arena() -> None:
    slots = Slots(3)
    addresses = [slots.ring.acquire(PAGE).address for _ in range(3)]
    assert [address - addresses[0] for address in addresses] == [0, PAGE, 2 * PAGE]
    assert slots.ring.bytes == 3 * PAGE


def test_a_slot_that_was_given_back_is_taken_first() -> None:
    slots = Slots(8)
    first = slots.ring.acquire(PAGE)
    slots.ring.give_back(first)
    assert slots.ring.acquire(PAGE) is first


def test_an_unused_one_is_taken_rather_than_waited_for() -> None:
    slots = Slots()
    first = slots.ring.acquire(PAGE)
    slots.copied(first, 1)
    assert slots.ring.acquire(PAGE) is not first
    assert slots.driver.waits == []


def test_when_all_are_in_use_the_oldest_copy_is_waited_for() -> None:
    slots = Slots()
    first, second = slots.ring.acquire(PAGE), slots.ring.acquire(PAGE)
    slots.copied(second, 2)
    slots.copied(first, 1)
    assert slots.ring.acquire(PAGE) is second
    assert slots.driver.waits == [2]


@pytest.mark.parametrize("end", ["close", "fail"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_wait_ends_with_the_load(end: str, ready: bool) -> None:
    slots = Slots(ready=ready)
    held = [slots.ring.acquire(PAGE), slots.ring.acquire(PAGE)] if ready else []
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
    held = [slots.ring.acquire(PAGE), slots.ring.acquire(PAGE)]
    thread, got = slots.acquire_in_a_thread()
    slots.ring.give_back(held[0])
    thread.join(PATIENCE)
    assert got == [held[0]]


def test_a_slot_whose_copy_failed_is_not_used_again() -> None:
    slots = Slots()
    first, second = slots.ring.acquire(PAGE), slots.ring.acquire(PAGE)
    slots.copied(first, 1)
    slots.driver.refused = True
    with pytest.raises(CudaError, match="cuEventSynchronize"):
        slots.ring.acquire(PAGE)
    assert slots.ring.held == 1
    slots.ring.give_back(second)
    assert slots.ring.acquire(PAGE) is second


@pytest.mark.parametrize("intact", [True, False])
def test_the_arena_goes_back_at_the_close(intact: bool) -> None:
    slots = Slots()
    slots.ring.give_back(slots.ring.acquire(PAGE))
    slots.ring.close(intact=intact)
    slots.ring.close(intact=intact)
    assert slots.arenas.intact == [intact]
    assert slots.ring.bytes == 0


def test_while_a_reader_holds_a_slot_the_arena_does_not_go_back() -> None:
    slots = Slots()
    held = slots.ring.acquire(PAGE)
    slots.ring.close(intact=True)
    assert slots.arenas.intact == []
    slots.ring.give_back(held)
    assert slots.arenas.intact == [True]


def test_a_large_read_gets_adjacent_pieces() -> None:
    slots = Slots(5)
    one, large, other = (slots.ring.acquire(length) for length in (PAGE, 2 * PAGE + 1, 1))
    assert [slot.address - one.address for slot in (large, other)] == [PAGE, 4 * PAGE]
    assert len(large.memory) == 3 * PAGE
    slots.ring.give_back(large)
    assert slots.ring.acquire(3 * PAGE) is large


def test_a_large_read_waits_for_copies_until_there_are_adjacent_pieces() -> None:
    slots = Slots(4)
    held = [slots.ring.acquire(PAGE) for _ in range(4)]
    for number in (0, 2, 1):
        slots.copied(held[number], number)
    assert slots.ring.acquire(2 * PAGE).address == held[0].address
    assert slots.driver.waits == [0, 2, 1]
    assert slots.ring.held == 2


def test_what_a_large_read_cannot_use_another_reader_gets() -> None:
    slots = Slots(3)
    held = [slots.ring.acquire(PAGE) for _ in range(3)]
    large, got_large = slots.acquire_in_a_thread(2)
    small, got_small = slots.acquire_in_a_thread()
    slots.ring.give_back(held[0])
    small.join(PATIENCE)
    assert got_small == [held[0]]
    slots.ring.give_back(held[1])
    slots.ring.give_back(held[2])
    large.join(PATIENCE)
    assert [type(each) for each in got_large] == [Slot]


@pytest.mark.parametrize("seed", range(20))
def test_no_piece_is_in_two_slots_or_copied_from_as_it_is_filled(seed: int) -> None:
    slots, choices = Slots(9), random.Random(seed)
    held: list[Slot] = []
    copied: dict[int, range] = {}  # event -> the pieces that were copied from before it
    for event in range(300):
        if len(held) < 2:  # beside a slot of three pieces at most, three adjacent ones of nine are always in none
            held.append(slots.ring.acquire(choices.randint(1, 3) * PAGE))
        pending = {piece for number, pieces in copied.items() if number not in slots.driver.waits for piece in pieces}
        filled = [piece for slot in held for piece in slot.pieces]
        assert len(filled) == len(set(filled))
        assert not pending & set(filled)
        slot = held.pop(choices.randrange(len(held))) if choices.random() < 0.7 else None
        if slot is not None and choices.random() < 0.3:
            slots.ring.give_back(slot)
        elif slot is not None:
            copied[event] = slot.pieces
            slots.copied(slot, event)
    assert slots.ring.held == len(held)
