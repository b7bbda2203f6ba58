"""Device memory that is allocated ahead of the readers, in a thread of its own."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from runai_model_streamer.errors import OutOfMemoryError, StreamerError
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.image import Image
from runai_model_streamer.pipeline.cuda.lease import CudaLease, LeasesAhead
from runai_model_streamer.pipeline.cuda.memory import Allocated
from runai_model_streamer.pipeline.landing.tensors import TorchForm
from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import PATIENCE, numbered, raw
from tests.cuda_emulator import Emulator
from tests.pipeline.cuda.world import Caching, CtypesApi, Tender, World

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

EMPTY = 1
"""The index of a group without bytes."""


class Load:
    """Groups, and an allocation that a test holds up at one of them."""

    def __init__(self, held_up: int = 9, error: Exception | None = None) -> None:
        self.groups: list[Any] = [Group(index, (), int(index != EMPTY), 0, 0) for index in range(4)]
        self.lifecycle = Lifecycle()
        self.waits = WaitClock()
        self.ahead = LeasesAhead(self.groups, self.lifecycle, self.waits)
        self.begun: list[int] = []
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._held_up = held_up
        self._error = error

    def make(self, group: Group) -> CudaLease:
        self.begun.append(group.index)
        self.began.release()
        if group.index == self._held_up:
            assert self.go_on.wait(PATIENCE)
            if self._error is not None:
                raise self._error
        self.lifecycle.check()
        return CudaLease(group, Image(group, []), 0, 0)

    def take(self, index: int) -> CudaLease:
        return self.ahead.take(self.groups[index], self.make)

    def begins(self, allocations: int) -> None:
        for _ in range(allocations):
            assert self.began.acquire(timeout=PATIENCE)


def test_groups_get_memory_before_a_reader_asks_for_it() -> None:
    load = Load()
    assert load.take(0).group.index == 0
    load.begins(3)
    assert load.begun == [0, 2, 3]


def test_while_one_allocation_lasts_readers_get_what_was_allocated_before() -> None:
    load = Load(held_up=3)
    load.take(0)
    load.begins(3)
    waited = load.waits.at(time.perf_counter())
    assert load.take(2).group.index == 2
    assert load.waits.at(time.perf_counter()) == waited
    load.go_on.set()
    assert load.take(3).group.index == 3


@pytest.mark.parametrize(
    ("raised", "told"),
    [(OutOfMemoryError("full"), OutOfMemoryError("full")), (ValueError("odd"), StreamerError("ValueError: odd"))],
)
def test_an_error_reaches_the_reader_that_comes_to_the_group(raised: Exception, told: Exception) -> None:
    load = Load(held_up=2, error=raised)
    load.take(0)
    load.go_on.set()
    with pytest.raises(type(told), match=str(told)):
        load.take(2)


def test_a_wait_ends_with_the_load() -> None:
    load = Load(held_up=2)
    load.take(0)
    load.begins(2)
    load.lifecycle.close()
    with pytest.raises(Stopped):
        load.take(2)
    load.go_on.set()
    load.ahead.close(PATIENCE)


# Loads.


class Counting(Caching):
    """Tells when the second group has memory."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.groups = 0
        self.second = threading.Event()

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        self.groups += 1
        if self.groups == 2:
            self.second.set()
        return super().allocate(forms)


class HeldUp(Caching):
    """Memory whose allocation for the third group lasts until the test ends it."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.threads: list[str] = []
        """The thread of each allocation."""
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) == 3:
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
        return super().allocate(forms)


def test_while_memory_is_allocated_steps_are_read_copied_and_taken_so_no_lock_is_held(emulator: Emulator) -> None:
    world = World(emulator, CtypesApi(emulator))
    world.memory = memory = HeldUp(world)
    file = numbered([4 * PAGE] * 5)  # a group for each, of four reads
    load = world.load([file], chunk=PAGE, group_bytes=PAGE)
    tensors = load.tensors()
    kept = [next(tensors)]
    assert memory.begun.wait(PATIENCE)
    kept.append(next(tensors))  # all of the group was read, copied and counted meanwhile
    assert not memory.go_on.is_set()
    memory.go_on.set()
    kept += tensors
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in file.values()]
    assert len(memory.threads) == len(file)
    assert {name for name in memory.threads if "allocator" not in name} == set()
    kept.clear()
    assert world.close() == []


def test_memory_is_allocated_while_the_only_reader_reads(emulator: Emulator) -> None:
    world = World(emulator, CtypesApi(emulator))
    world.memory = memory = Counting(world)

    class Slow(Tender):
        """Reads no tensor before the second group has memory."""

        def read_into(self, offset: int, buffer: memoryview) -> Origin:
            assert offset < 1000 or memory.second.wait(PATIENCE)
            return super().read_into(offset, buffer)

    file = numbered([2 * PAGE] * 6)
    kept = list(world.load([file], concurrency=1, group_bytes=PAGE, source=Slow).tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in file.values()]
    kept.clear()
    assert world.close() == []
