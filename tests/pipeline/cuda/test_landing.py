"""The CUDA landing on the emulated driver, in this process: loads land right, and nothing is used by two at once."""

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runai_model_streamer.errors import CudaError, ReadError, StateError, StreamerError
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.ahead import GROUPS_AHEAD
from runai_model_streamer.pipeline.cuda.copy_stream import CopyStream
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Copies
from runai_model_streamer.pipeline.cuda.landing import CudaLanding
from runai_model_streamer.pipeline.cuda.lease import CudaLease
from runai_model_streamer.pipeline.cuda.memory import Allocated
from runai_model_streamer.pipeline.cuda.slots import Slot, SlotRing
from runai_model_streamer.pipeline.landing.tensors import TorchForm
from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.ranges import PAGE, round_up
from tests.casts import FLOATS, TARGETS, expected, finite
from tests.checkpoints import Stored, encode, join_ours, numbered, raw, stored
from tests.cuda_emulator import MODES, Emulator, Mode
from tests.pipeline.cuda.world import Caching, Classes, CtypesApi, Tender, World

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def world_of(emulator: Emulator, **classes: Any) -> World:
    return World(emulator, CtypesApi(emulator), Classes(**classes))


class Case(NamedTuple):
    """A load, and how the caller goes about it."""

    files: list[dict[str, Stored]]
    alignment: int
    limit: int | None
    chunk: int
    concurrency: int
    group_bytes: int
    kept: int
    """Every so manyth tensor is kept; 0 for none."""
    streams: int
    """The caller goes to its other stream after so many tensors, and back after as many; 0 for never."""
    seed: int
    target: str | None = None
    """What floating-point tensors are cast to."""
    joined: int = 1
    """Adjacent slots that a read may take when reads have grown."""


_DTYPES = st.sampled_from(["U8", "BOOL", "BF16", "F16", "F32", "I64", "F8_E4M3", "C64"])
_SHAPES = st.one_of(
    st.lists(st.integers(0, 8), max_size=3),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=1),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    files = []
    for index in range(draw(st.integers(0, 3))):
        shapes = draw(st.lists(st.tuples(_DTYPES, _SHAPES), max_size=12))
        # What NaNs become is the kernels' own business.
        made = [(finite if dtype in FLOATS else stored)(dtype, shape, n) for n, (dtype, shape) in enumerate(shapes)]
        files.append({f"{index}.{n}": each for n, each in enumerate(made)})
    return Case(
        files,
        draw(st.sampled_from([1, PAGE])),
        draw(st.one_of(st.none(), st.just(0), st.integers(2 * PAGE, 20 * PAGE))),
        PAGE * draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from([PAGE, 8 * PAGE, 64 * PAGE])),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 4)),
        draw(st.integers(0, 1 << 20)),
        draw(st.sampled_from([None, "BF16", "F16", "F32"])),
        draw(st.integers(1, 3)),
    )


def wanted_of(case: Case) -> list[tuple[str, bytes]]:
    """The bytes that the caller is to get."""
    found = [(name, each) for file in case.files for name, each in file.items()]
    if case.target is None:
        return [(name, each.data) for name, each in found]
    return [(name, raw(expected(each, TARGETS[case.target]))) for name, each in found]


def problems(world: World, case: Case, taken: int | None = None) -> list[str]:
    """Load the case as its caller does, up to `taken` tensors; what went wrong."""
    load = world.load(
        case.files,
        limit=case.limit,
        chunk=case.chunk,
        concurrency=case.concurrency,
        group_bytes=case.group_bytes,
        alignment=case.alignment,
        seed=case.seed,
        target=case.target,
        joined=case.joined,
    )
    kept = []
    tensors = load.tensors()
    number = 0
    while number != taken:
        if case.streams and number % case.streams == 0:
            world.using = world.other if world.using == world.stream else world.stream
        name, tensor = next(tensors, (None, None))
        if name is None or tensor is None:
            break
        number += 1
        world.work_on(name, tensor)
        if case.kept and number % case.kept == 0:
            kept.append((name, tensor))
        del tensor
    del tensors
    load.close()
    wanted = wanted_of(case)
    wrong = []
    if world.results() != wanted[:taken]:
        wrong.append("the caller's kernels saw something else")
    by_name = dict(wanted)
    wrong += [f"{name} is something else" for name, tensor in kept if raw(tensor) != by_name[name]]
    return wrong


@pytest.mark.parametrize("mode", MODES)
def test_any_load_lands_right_and_leaves_nothing(mode: Mode, emulator: Emulator) -> None:
    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        emulator.reset()
        emulator.set_mode(mode, case.seed)
        world = world_of(emulator)
        try:
            wrong = problems(world, case)
        finally:
            left = world.close()
        assert wrong + left == []

    check()


PLAIN = Case(
    [numbered([3000, 20_000, 0, 7, 9000, 100, 12_000, 5000, 4000, 30_000])], 1, 2 * PAGE, PAGE, 2, 4 * PAGE, 3, 0, 1
)
"""Tensors that cross slots, of which there are two, in groups that the caller gets one after the other."""

SWITCHING = PLAIN._replace(streams=2, kept=0)
"""The same, by a caller with two streams that keeps nothing."""

AHEAD = SWITCHING._replace(limit=None, chunk=16 * PAGE, concurrency=6, group_bytes=64 * PAGE, streams=1)
"""The same, with so many slots that nobody waits for a copy."""


_CAST = [
    {f"t{n}": finite(dtype, [1000 + 700 * n], n) for n, dtype in enumerate(["F32", "F16", "F8_E4M3", "F32", "F16"] * 2)}
]
CASTING = SWITCHING._replace(files=_CAST, target="BF16")
"""The same callers, whose tensors are cast on the device."""

CASTING_AHEAD = AHEAD._replace(files=_CAST, target="BF16")


def lazily(emulator: Emulator, case: Case, taken: int | None = None, **classes: Any) -> list[str]:
    """What goes wrong where everything is as late as it may be, and the load is made of these `Classes`."""
    emulator.set_mode("lazy")
    world = world_of(emulator, **classes)
    try:
        wrong = problems(world, case, taken)
    finally:
        left = world.close()
    return wrong + left


def is_found(what: tuple[str, ...], load: Callable[[], list[str]]) -> bool:
    """Whether one of ten loads shows it: what is pending at a moment is up to the threads."""
    return any(word in each for _ in range(10) for each in load() for word in what)


@pytest.mark.parametrize(
    "case",
    [PLAIN, SWITCHING, AHEAD, CASTING, CASTING_AHEAD],
    ids=["one stream", "two streams", "many slots", "casting", "casting, many slots"],
)
@pytest.mark.parametrize("taken", [None, 0, 1, 4])
def test_as_it_is_nothing_goes_wrong(emulator: Emulator, case: Case, taken: int | None) -> None:
    assert lazily(emulator, case, taken) == []


# Faults, planted one by one, each of which has to be found.


def test_a_slot_that_is_used_again_before_its_event_is_found(emulator: Emulator) -> None:
    class Hasty(CudaDriver):
        def synchronize_event(self, event: int) -> None:
            """Do not wait."""

    assert is_found(("source-changed", "host-access"), lambda: lazily(emulator, PLAIN, driver=Hasty))


def test_a_slots_event_that_is_recorded_before_its_copy_is_found(emulator: Emulator) -> None:
    class TooEarly(CudaLanding):
        def _copy(self, ring: SlotRing, slot: Slot, copies: Copies) -> None:
            with self._stream.queue() as stream:
                if slot.event is None:
                    slot.event = self._stream.event()
                self._driver.record(slot.event, stream)
                self._driver.copy_to_device(*copies, stream)
            ring.copying(slot)

    assert is_found(("source-changed", "host-access"), lambda: lazily(emulator, PLAIN, landing=TooEarly))


def test_a_groups_event_that_is_recorded_before_its_copies_is_found(emulator: Emulator) -> None:
    class NeverReady(CudaLanding):
        def ready(self, lease: CudaLease) -> None:
            """What is left is the event that was recorded when the memory was allocated."""

    assert is_found(("race",), lambda: lazily(emulator, PLAIN, landing=NeverReady))


class KnowsItsStreams(CudaDriver):
    """A driver that can tell its own streams from the caller's."""

    def __init__(self, device: int, api: object) -> None:
        super().__init__(device, api)
        self.own: set[int] = set()

    def create_stream(self) -> int:
        stream = super().create_stream()
        self.own.add(stream)
        return stream


def test_a_caller_that_does_not_wait_for_the_copies_is_found(emulator: Emulator) -> None:
    class OnlyCopiesWait(KnowsItsStreams):
        def wait(self, stream: int, event: int) -> None:
            if stream in self.own:
                super().wait(stream, event)

    assert is_found(("race",), lambda: lazily(emulator, PLAIN, driver=OnlyCopiesWait))


def test_copies_that_do_not_wait_for_what_was_in_the_memory_before_are_found(emulator: Emulator) -> None:
    class OnlyCallersWait(KnowsItsStreams):
        def wait(self, stream: int, event: int) -> None:
            if stream not in self.own:
                super().wait(stream, event)

    assert is_found(("race",), lambda: lazily(emulator, PLAIN, driver=OnlyCallersWait))


def test_memory_that_is_not_recorded_on_the_callers_other_stream_is_found(emulator: Emulator) -> None:
    class Unrecorded(Caching):
        def record(self, tensor: torch.Tensor) -> None:
            """Forget it."""

    assert is_found(("race",), lambda: lazily(emulator, SWITCHING, memory=Unrecorded))


def test_a_stream_that_came_in_later_and_does_not_wait_is_found(emulator: Emulator) -> None:
    class FirstOnly(CudaDriver):
        """As if the caller's stream were looked at once for a group, not for each tensor."""

        def __init__(self, device: int, api: object) -> None:
            super().__init__(device, api)
            self.waited: set[int] = set()

        def record(self, event: int, stream: int) -> None:
            self.waited.discard(event)
            super().record(event, stream)

        def make_caller_wait(self, stream: int, event: int) -> None:
            if event not in self.waited:
                self.waited.add(event)
                super().make_caller_wait(stream, event)

    assert is_found(("race",), lambda: lazily(emulator, AHEAD, driver=FirstOnly))


def test_memory_that_is_freed_while_copies_into_it_are_pending_is_found(emulator: Emulator) -> None:
    class Forgetful(CudaLanding):
        """Keeps no lease, so that an iterator which is dropped takes its memory with it."""

        def _allocate(self, group: Group) -> CudaLease:
            lease = super()._allocate(group)
            self._leases.clear()
            return lease

    assert is_found(("race",), lambda: lazily(emulator, AHEAD, taken=1, landing=Forgetful))


def test_a_close_that_does_not_wait_for_the_copies_is_found(emulator: Emulator) -> None:
    class Impatient(CudaLanding):
        def _ending(self, stream: CopyStream | None) -> Iterator[Callable[[], object]]:
            ending = super()._ending(stream)
            next(ending)  # the wait
            return ending

    assert is_found(("freed-in-use",), lambda: lazily(emulator, PLAIN, taken=1, landing=Impatient))


# Scratch memory, which tensors are cast from.


def test_casts_that_are_queued_behind_the_groups_event_are_found(emulator: Emulator) -> None:
    class Late(CudaLanding):
        def ready(self, lease: CudaLease) -> None:
            with self._stream.queue() as stream:
                self._driver.record(lease.event, stream)
                self._memory.cast(lease.image.casts, stream)
                lease.image.casts.clear()

    assert is_found(("race",), lambda: lazily(emulator, CASTING, landing=Late))


def test_scratch_memory_that_is_freed_when_the_casts_are_queued_is_found(emulator: Emulator) -> None:
    class TooSoon(CudaLanding):
        def ready(self, lease: CudaLease) -> None:
            super().ready(lease)
            lease.image.pop_scratch()

    assert is_found(("race",), lambda: lazily(emulator, CASTING, landing=TooSoon))


def test_scratch_memory_that_is_freed_before_the_callers_stream_waits_is_found(emulator: Emulator) -> None:
    class TooSoon(CudaLanding):
        def take(self, group: Group, lease: CudaLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
            if lease is not None:
                lease.image.pop_scratch()
            return super().take(group, lease)

    assert is_found(("race",), lambda: lazily(emulator, CASTING, landing=TooSoon))


class Scratch(Caching):
    """Knows the scratch memory: the last piece of a group of which every tensor is cast."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.scratches: list[weakref.ref[torch.Tensor]] = []
        self.max_alive = 0

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        made = super().allocate(forms)
        self.scratches.append(weakref.ref(made.tensors[-1]))
        self.max_alive = max(self.max_alive, sum(each() is not None for each in self.scratches))
        return made


def test_scratch_memory_that_is_not_recorded_on_the_callers_other_stream_is_found(emulator: Emulator) -> None:
    class OnlyOthers(Scratch):
        def record(self, tensor: torch.Tensor) -> None:
            if all(each() is not tensor for each in self.scratches):
                super().record(tensor)

    assert is_found(("race",), lambda: lazily(emulator, CASTING._replace(streams=1), memory=OnlyOthers))


def test_scratch_memory_of_three_groups_at_most_is_there_at_once(emulator: Emulator) -> None:
    world = world_of(emulator, memory=Scratch)
    memory = world.memory
    assert isinstance(memory, Scratch)
    file = {f"t{n}": finite("F32", [1500], n) for n in range(20)}
    load = world.load([file], group_bytes=PAGE, target="F16")
    for _, tensor in load.tensors():
        del tensor
    assert 1 <= memory.max_alive <= GROUPS_AHEAD + 1
    assert world.close() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_cast_that_fails_as_it_runs_reaches_the_caller(mode: Mode, emulator: Emulator) -> None:
    emulator.set_mode(mode)
    world = world_of(emulator)
    world.lost = True
    emulator.fail_when_run("cuLaunchKernel", 2, 719)
    load = world.load(_CAST, limit=PLAIN.limit, chunk=PLAIN.chunk, target="BF16")
    # All calls fail once the context is lost: the next one tells, which may be the allocator's.
    with pytest.raises(StreamerError, match="719"):
        list(load.tensors())
    load.close()


# Errors.


def _calls(emulator: Emulator, case: Case) -> dict[str, int]:
    world = world_of(emulator)
    problems(world, case)
    calls = dict(world.faulty.calls)
    assert world.close() == []
    return calls


@pytest.mark.parametrize("mode", MODES)
def test_an_error_of_any_call_reaches_the_caller_by_its_name_and_nothing_is_left(
    mode: Mode, emulator: Emulator
) -> None:
    emulator.set_mode(mode)
    case = PLAIN._replace(concurrency=1)
    calls = _calls(emulator, case)
    assert len(calls) > 15
    _fail_each(emulator, case, calls)


def test_a_cast_that_cannot_be_queued_reaches_the_caller_and_nothing_is_left(emulator: Emulator) -> None:
    case = CASTING._replace(concurrency=1)
    name = "cuLaunchKernel"
    count = _calls(emulator, case)[name]
    assert count == len(_CAST[0])
    _fail_each(emulator, case, {name: count})


def _fail_each(emulator: Emulator, case: Case, calls: dict[str, int]) -> None:
    for name, count in calls.items():
        if name == "cuMemHostRegister":
            continue  # CUDA is then asked for the memory: tests/pipeline/cuda/test_arena.py
        for number in range(1, count + 1):
            emulator.reset()
            world = world_of(emulator)
            world.faulty.fails = (name, number)
            told: str | None
            try:
                problems(world, case)
            except CudaError as error:
                told = str(error)
            else:
                # There were fewer calls than before: how many depends on who is faster, the caller or the reader.
                told = None if world.faulty.calls[name] < number else "nothing"
            join_ours()
            left = world.close()
            assert told is None or f"{name} failed with CUDA_ERROR_999" in told, (name, number, told)
            assert left == [], (name, number)


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_that_fails_as_it_runs_reaches_the_caller(mode: Mode, emulator: Emulator) -> None:
    emulator.set_mode(mode)
    world = world_of(emulator)
    world.lost = True
    emulator.fail_when_run("cuMemcpyHtoDAsync", 3, 700)
    load = world.load(PLAIN.files, limit=PLAIN.limit, chunk=PLAIN.chunk)
    with pytest.raises(CudaError, match=r"^cu\w+ failed with CUDA_ERROR_700"):
        list(load.tensors())
    load.close()
    assert (emulator.live("streams"), emulator.live("registered")) == (2, 0)


class Failing(Tender):
    """Ends early."""

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if offset > 40_000:
            raise ReadError("m: gone")
        return super().read_into(offset, buffer)


def test_an_error_of_a_read_comes_through_and_nothing_is_left(emulator: Emulator) -> None:
    world = world_of(emulator)
    with pytest.raises(ReadError, match="gone"):
        list(world.load(PLAIN.files, source=Failing).tensors())
    assert world.close() == []


def test_of_two_errors_the_first_is_told(emulator: Emulator) -> None:
    world = world_of(emulator)
    world.faulty.fails = ("cuStreamDestroy", 1)
    with pytest.raises(ReadError, match="gone"):
        list(world.load(PLAIN.files, source=Failing).tensors())
    assert world.close() == []


# The end.


def test_a_load_that_nobody_takes_from_leaves_nothing(emulator: Emulator) -> None:
    world = world_of(emulator)
    load = world.load(PLAIN.files)
    load.close()
    load.close()
    assert world.close() == []


def test_a_load_that_is_dropped_without_a_close_leaves_nothing(emulator: Emulator) -> None:
    world = world_of(emulator)
    load = world.load(PLAIN.files)
    tensors = load.tensors()
    next(tensors)
    del tensors
    load.stop()
    join_ours()
    del load
    gc.collect()
    assert world.close() == []


def test_tensors_are_right_after_the_load_has_ended(emulator: Emulator) -> None:
    world = world_of(emulator)
    kept = list(world.load(PLAIN.files).tensors())
    assert [(name, raw(tensor)) for name, tensor in kept] == [(n, each.data) for n, each in PLAIN.files[0].items()]
    del kept
    assert world.close() == []


def test_reading_on_after_the_close_is_an_error(emulator: Emulator) -> None:
    world = world_of(emulator)
    load = world.load(PLAIN.files)
    tensors = load.tensors()
    next(tensors)
    load.close()
    with pytest.raises(StateError, match="closed"):
        next(tensors)
    del tensors
    assert world.close() == []


# Bounds.


@pytest.mark.parametrize(("limit", "bytes_"), [(None, 6 * PAGE), (0, 2 * PAGE), (3 * PAGE, 3 * PAGE), (8191 + 1, 8192)])
def test_the_limit_bounds_the_pinned_memory_whatever_the_size_of_tensors(
    emulator: Emulator, limit: int | None, bytes_: int
) -> None:
    world = world_of(emulator)
    file = numbered([500_000, 300_000])
    kept = list(world.load([file], limit=limit).tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in file.values()]
    kept.clear()
    assert emulator.live("registered_bytes_peak") <= bytes_
    assert world.close() == []


def test_no_more_than_two_groups_are_ahead_of_the_caller(emulator: Emulator) -> None:
    world = world_of(emulator)
    load = world.load([numbered([10_000] * 20)], group_bytes=PAGE)
    tensors = load.tensors()
    seen = []
    for _, tensor in tensors:
        seen.append(world.memory.lent)
        del tensor
    assert max(seen) <= GROUPS_AHEAD + 1
    assert world.close() == []


def test_each_tensor_has_a_storage_of_its_own_aligned_for_every_dtype(emulator: Emulator) -> None:
    world = world_of(emulator)
    file = {"a": stored("U8", (3,)), "b": stored("F32", (5,)), "c": stored("U8", (1,)), "d": stored("C64", (2, 2))}
    kept = dict(world.load([file]).tensors())
    assert [tensor.data_ptr() % 256 for tensor in kept.values()] == [0] * 4
    assert [tensor.untyped_storage().nbytes() for tensor in kept.values()] == [3, 20, 1, 32]
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in kept.values())
    kept.clear()
    assert world.close() == []


# GPUDirect.


class Direct:
    """A file that the device reads by itself, into pinned memory, and that says so when something is pending there."""

    def __init__(self, data: bytes, emulator: Emulator, world: World) -> None:
        self._data = data
        self._emulator = emulator
        self._world = world
        self.reads: list[tuple[int, int]] = []
        self.closed = 0

    def read_into_device(self, offset: int, length: int, base: int, at: int) -> None:
        assert at + round_up(length, PAGE) <= self._world.pinned.memory[base]
        self._emulator.host_access(base + at, length, writes=True)
        self.reads.append((offset, length))
        ctypes.memmove(base + at, self._data[offset : offset + length], length)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("target", [None, "F16"])
@pytest.mark.parametrize("mode", MODES)
def test_direct_reads_are_whole_pages_and_tensors_are_copied_from_there(
    mode: Mode, target: str | None, emulator: Emulator
) -> None:
    emulator.set_mode(mode)
    world = world_of(emulator)
    file = numbered([1 << 20, 10, 20, 30, 3 << 20, 5]) | {"numbers": finite("F32", [300_001])}
    data = encode(file)
    direct = Direct(data, emulator, world)
    for name, tensor in world.load([file], chunk=1 << 19, direct={0: direct}, alignment=PAGE, target=target).tensors():
        world.work_on(name, tensor)
        del tensor
    assert world.results() == wanted_of(PLAIN._replace(files=[file], target=target))
    assert sum(length for _, length in direct.reads) > len(data) - PAGE
    assert [offset for offset, _ in direct.reads if offset % PAGE] == []
    assert direct.closed == 1
    assert world.close() == []


def test_a_direct_read_into_a_slot_that_is_still_copied_from_is_found(emulator: Emulator) -> None:
    class Impatient(CudaDriver):
        def synchronize_event(self, event: int) -> None:
            """Do not wait."""

    world = world_of(emulator, driver=Impatient)
    file = numbered([1 << 20])
    direct = Direct(encode(file), emulator, world)
    load = world.load([file], chunk=1 << 16, direct={0: direct}, alignment=PAGE, limit=1 << 17)
    assert len(list(load.tensors())) == 1
    assert any("host-access" in each for each in world.close())
