"""Page-locked memory of a process: made once, kept between loads, within the limit; on the emulated driver."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer.errors import CudaError
from runai_model_streamer.pipeline.cuda.arena import Arena
from runai_model_streamer.pipeline.cuda.staging import MAX_BYTES, Staging
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import PATIENCE, join_ours, numbered, raw
from tests.cuda_emulator import Emulator
from tests.pipeline.cuda.world import CtypesApi, Tender, World

MIB = 1 << 20
SMALL = Staging(PAGE, 2, 8 * PAGE)
FILE = numbered([3000, 20_000, 9000, 12_000, 30_000])

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def world(emulator: Emulator) -> Iterator[World]:
    world = World(emulator, CtypesApi(emulator))
    yield world
    assert world.close() == []


def lent(world: World, staging: Staging = SMALL, device: int = 0) -> Arena:
    """An arena that is page-locked."""
    arena = world.arenas.lend(device, world.faulty, staging)
    arena.memory.result(PATIENCE)
    return arena


def registered(world: World) -> int:
    return world.faulty.calls["cuMemHostRegister"]


def test_it_is_registered_once_however_large(world: World) -> None:
    arena = lent(world, Staging(8 * MIB, 5, MAX_BYTES))
    assert len(arena.memory.result()) == world.emulator.live("registered_bytes") == 40 * MIB
    assert registered(world) == 1
    arena.free()


def test_the_next_load_gets_the_same_one(world: World) -> None:
    first = lent(world)
    world.arenas.give_back(first, SMALL, intact=True)
    assert lent(world) is first
    assert registered(world) == 1
    first.free()


def test_two_loads_at_once_have_one_each(world: World) -> None:
    first, second = lent(world), lent(world)
    assert first is not second
    world.arenas.give_back(first, SMALL, intact=True)
    world.arenas.give_back(second, SMALL, intact=True)
    assert world.emulator.live("registered") == 2


def test_idle_ones_are_within_the_limit_together(world: World) -> None:
    staging = Staging(PAGE, 3, 5 * PAGE)
    first, second = lent(world, staging), lent(world, staging)
    world.arenas.give_back(first, staging, intact=True)
    world.arenas.give_back(second, staging, intact=True)
    assert world.emulator.live("registered_bytes") == 3 * PAGE


def test_with_limit_0_it_is_freed_at_the_end_of_the_load(world: World) -> None:
    world.arenas.give_back(lent(world), SMALL._replace(kept=0), intact=True)
    assert world.emulator.live("registered") == 0


@pytest.mark.parametrize("staging", [Staging(PAGE, 9, 9 * PAGE), Staging(PAGE, 1, PAGE)], ids=["larger", "lower limit"])
def test_one_that_does_not_fit_is_freed_for_the_one_that_does(world: World, staging: Staging) -> None:
    world.arenas.give_back(lent(world), SMALL, intact=True)
    arena = lent(world, staging)
    assert world.emulator.live("registered_bytes") == staging.bytes
    arena.free()


def test_one_from_which_a_copy_may_be_pending_is_not_used_again(world: World) -> None:
    world.arenas.give_back(lent(world), SMALL, intact=False)
    assert world.emulator.live("registered") == 0


def test_idle_ones_are_freed_on_request(world: World) -> None:
    used, idle = lent(world), lent(world)
    world.arenas.give_back(idle, SMALL, intact=True)
    world.arenas.release()
    assert world.emulator.live("registered") == 1
    used.free()


def test_one_is_begun_before_the_load_asks_for_it(world: World) -> None:
    world.arenas.begin(0, world.faulty, SMALL)
    join_ours()
    assert registered(world) == 1
    lent(world).free()
    assert registered(world) == 1


def test_one_that_is_freed_while_it_is_prepared_is_freed_when_it_is_there(world: World) -> None:
    arena = Arena(0, world.faulty, PAGE)
    arena.free()
    arena.prepare()
    assert registered(world) == 1
    assert world.emulator.live("registered") == 0


def test_memory_that_cannot_be_registered_is_allocated_by_cuda(world: World) -> None:
    world.faulty.fails = ("cuMemHostRegister", 1)
    arena = lent(world)
    assert (world.emulator.live("pinned_bytes"), world.emulator.live("registered")) == (SMALL.bytes, 0)
    arena.free()


def test_a_load_from_such_memory_is_right(world: World) -> None:
    world.faulty.fails = ("cuMemHostRegister", 1)
    kept = list(world.load([FILE]).tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in FILE.values()]
    assert world.faulty.calls["cuMemHostAlloc"] == 1


def test_where_cuda_has_none_either_the_next_load_asks_again(world: World) -> None:
    world.emulator.fail("cuMemHostRegister", 1)
    world.emulator.fail("cuMemHostAlloc", 1)
    world.arenas.begin(0, world.faulty, SMALL)
    join_ours()
    lent(world).free()
    assert registered(world) == 2


def test_one_that_cannot_be_unlocked_is_an_error_and_stays_mapped(world: World) -> None:
    world.faulty.fails = ("cuMemHostUnregister", 1)
    arena = lent(world)
    memory = arena.memory.result()
    with pytest.raises(CudaError, match="cuMemHostUnregister"):
        arena.free()
    memory[0] = 1


def test_a_forked_child_has_none_and_frees_none_of_the_parents(world: World) -> None:
    world.arenas.give_back(lent(world), SMALL, intact=True)
    child = os.fork()
    if not child:
        world.arenas.forget()
        world.arenas.release()
        os._exit(0 if world.emulator.live("registered") == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Loads.


def test_all_is_page_locked_before_the_first_byte_is_read_and_until_the_last_tensor(
    world: World,
) -> None:
    seen: list[int] = []

    class Watching(Tender):
        """Remembers what had been page-locked when it was read."""

        def read_into(self, offset: int, buffer: memoryview) -> Any:
            seen.append(self._emulator.live("registered"))
            return super().read_into(offset, buffer)

    load = world.load([FILE], source=Watching)
    seen.clear()  # what was read of the header
    calls: list[tuple[int, int]] = []
    for _, tensor in load.tensors():
        del tensor
        calls.append((registered(world), world.faulty.calls["cuMemHostUnregister"]))
    assert set(calls) == {(1, 0)}
    assert set(seen) == {1}


def test_the_second_load_of_a_process_makes_no_call_that_page_locks_or_unlocks(world: World) -> None:
    list(world.load([FILE]).tensors())
    first = world.faulty.calls.copy()
    list(world.load([FILE]).tensors())
    assert (first["cuMemHostRegister"], registered(world)) == (1, 1)
    assert world.faulty.calls["cuMemHostUnregister"] == 0


def test_work_of_the_callers_that_another_rank_has_to_join_is_never_waited_for(world: World) -> None:
    list(world.load([FILE]).tensors())
    world.emulator.set_mode("lazy")
    world.emulator.set_pinning_waits(True)
    world.emulator.set_patience(1 << 30)  # no query makes it run
    world.using = world.other
    load = world.load([FILE], limit=None)
    for name, tensor in load.tensors():
        world.work_on(name, tensor)  # stands for a collective
        del tensor
    assert world.emulator.live("operations") >= len(FILE)
    world.emulator.set_pinning_waits(False)
    world.emulator.set_patience(3)
    assert world.results() == [(name, each.data) for name, each in FILE.items()]


def test_a_load_that_ends_before_its_arena_is_there_leaves_it_to_the_next(world: World, tmp_path: Path) -> None:
    arena = Arena(0, world.faulty, SMALL.bytes)
    assert isinstance(arena.memory, Future)
    world.arenas.give_back(arena, SMALL, intact=True)
    arena.prepare()
    assert world.arenas.lend(0, world.faulty, SMALL) is arena
    arena.free()
