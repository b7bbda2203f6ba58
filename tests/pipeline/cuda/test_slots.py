"""How much is staged, and how slots go round; on a driver that only counts."""

import ctypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runai_model_streamer.errors import CudaError, RunaiStreamerMemoryLimitException
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.cuda.slots import MAX_BYTES, SlotRing, Staging, staging_for
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import PATIENCE

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "chunk", "concurrency", "staging"),
    [
        (None, 2 * MIB, 16, (2 * MIB, 18)),
        (None, 8 * MIB, 8, (8 * MIB, 10)),
        (None, 64 * MIB, 16, (64 * MIB, MAX_BYTES // (64 * MIB))),
        (None, 1024 * MIB, 16, (MAX_BYTES // 2, 2)),
        (0, 2 * MIB, 16, (2 * MIB, 2)),
        (0, 1024 * MIB, 16, (MAX_BYTES // 2, 2)),
        (4 * MIB, 2 * MIB, 16, (2 * MIB, 2)),
        (9 * MIB, 2 * MIB, 16, (2 * MIB, 4)),
        (3 * MIB, 2 * MIB, 16, (3 * MIB // 2, 2)),
        (2 * PAGE, 2 * MIB, 16, (PAGE, 2)),
        (1 << 40, 2 * MIB, 16, (2 * MIB, 18)),
    ],
)
def test_slots_fit_into_the_limit(limit: int | None, chunk: int, concurrency: int, staging: tuple[int, int]) -> None:
    assert staging_for(limit, chunk, concurrency) == staging


@pytest.mark.parametrize("limit", [1, PAGE, 2 * PAGE - 1])
def test_a_limit_without_room_for_two_pages_is_an_error_that_says_so(limit: int) -> None:
    with pytest.raises(RunaiStreamerMemoryLimitException, match=f"MEMORY_LIMIT={limit} is too small.* {2 * PAGE} or"):
        staging_for(limit, 2 * MIB, 16)


class CountingDriver:
    """Memory and events; an event has happened when it is in `done`."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.events: set[int] = set()
        self.done: set[int] = set()
        self.waits: list[int] = []
        self.refused = False

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def release(self, actions: Iterable[Any]) -> None:
        for action in actions:
            action()

    def allocate_pinned(self, size: int) -> int:
        memory = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def free_pinned(self, address: int) -> None:
        del self.memory[address]

    def create_event(self) -> int:
        if self.refused:
            raise CudaError("cuEventCreate failed with CUDA_ERROR_OUT_OF_MEMORY")
        self.events.add(len(self.events) + 1)
        return len(self.events)

    def destroy_event(self, event: int) -> None:
        self.events.remove(event)

    def happened(self, event: int) -> bool:
        return event in self.done

    def synchronize_event(self, event: int) -> None:
        self.waits.append(event)
        self.done.add(event)


@pytest.fixture
def driver() -> CountingDriver:
    return CountingDriver()


def ring_of(driver: CountingDriver, slots: int = 2, lifecycle: Lifecycle | None = None) -> SlotRing:
    return SlotRing(driver, Staging(PAGE, slots), lifecycle or Lifecycle())  # type: ignore[arg-type]


def test_slots_are_made_as_they_are_needed(driver: CountingDriver) -> None:
    ring = ring_of(driver, 8)
    first = ring.acquire()
    ring.give_back(first)
    assert ring.acquire() is first
    assert ring.made == 1


def test_a_slot_whose_copy_is_done_is_taken_before_a_new_one_is_made(driver: CountingDriver) -> None:
    ring = ring_of(driver, 8)
    first = ring.acquire()
    ring.copying(first)
    driver.done.add(first.event)
    assert ring.acquire() is first
    assert (ring.made, driver.waits) == (1, [])


def test_a_new_one_is_made_rather_than_waited_for(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    first = ring.acquire()
    ring.copying(first)
    assert ring.acquire() is not first
    assert (ring.made, driver.waits) == (2, [])


def test_when_all_are_in_use_the_oldest_copy_is_waited_for(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    first, second = ring.acquire(), ring.acquire()
    ring.copying(second)
    ring.copying(first)
    assert ring.acquire() is second
    assert driver.waits == [second.event]


@pytest.mark.parametrize("end", ["close", "fail"])
def test_a_wait_for_another_reader_ends_with_the_load(driver: CountingDriver, end: str) -> None:
    lifecycle = Lifecycle()
    ring = ring_of(driver, lifecycle=lifecycle)
    held = [ring.acquire(), ring.acquire()]
    stopped: list[bool] = []

    def wait() -> None:
        with pytest.raises(Stopped):
            ring.acquire()
        stopped.append(True)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    if end == "close":
        lifecycle.close()
    else:
        lifecycle.fail(CudaError("gone"))
    for thread in threads:
        thread.join(PATIENCE)
    assert stopped == [True] * 3
    assert len(held) == ring.held == 2


def test_a_wait_for_another_reader_ends_when_that_gives_its_slot_back(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    held = [ring.acquire(), ring.acquire()]
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(ring.acquire()), daemon=True)
    thread.start()
    ring.give_back(held[0])
    thread.join(PATIENCE)
    assert got == [held[0]]


def test_a_stranded_slot_is_not_used_again_but_freed(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    first = ring.acquire()
    driver.done.add(first.event)
    ring.strand(first)
    assert ring.acquire() is not first
    ring.close()
    assert list(driver.memory) != [first.address]
    assert len(driver.memory) == 1


def test_a_slot_that_is_held_at_the_close_is_freed_when_it_comes_back(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    held, free = ring.acquire(), ring.acquire()
    ring.give_back(free)
    ring.close()
    assert list(driver.memory) == [held.address]
    ring.give_back(held)
    assert (driver.memory, driver.events) == ({}, set())


def test_a_slot_without_an_event_is_no_slot(driver: CountingDriver) -> None:
    ring = ring_of(driver)
    driver.refused = True
    with pytest.raises(CudaError, match="cuEventCreate"):
        ring.acquire()
    assert (driver.memory, ring.held, ring.made) == ({}, 0, 0)
