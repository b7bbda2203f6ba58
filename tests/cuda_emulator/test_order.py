"""When what is enqueued runs: as late as CUDA allows, and in the order that it promises."""

import ctypes
import random
import threading

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import (
    BLOCKING,
    DISABLE_TIMING,
    INVALID_HANDLE,
    LEGACY,
    NEW_DEVICE,
    NON_BLOCKING,
    NOT_READY,
    PER_THREAD,
    Driver,
    kinds,
    peek,
)

# When operations run


def test_lazily_nothing_runs_until_it_is_waited_for(emulator: Emulator, cuda: Driver) -> None:
    stream, target = cuda.stream(), cuda.device(4)
    cuda.fill(target, 1, 4, stream)
    cuda.fill(target, 2, 4, stream)
    cuda.device(4), cuda.stream(), cuda.event()
    assert peek(target, 4) == NEW_DEVICE * 4
    assert emulator.live("operations") == 2
    cuda.synchronize_stream(stream)
    assert peek(target, 4) == b"\2" * 4
    assert emulator.live("operations") == 0


def test_eagerly_all_runs_at_the_call(emulator: Emulator, cuda: Driver) -> None:
    emulator.set_mode("eager")
    target = cuda.device(4)
    cuda.fill(target, 1, 4, cuda.stream())
    assert peek(target, 4) == b"\1" * 4


def test_what_was_pending_runs_when_the_mode_becomes_eager(emulator: Emulator, cuda: Driver) -> None:
    target = cuda.device(4)
    cuda.fill(target, 1, 4, cuda.stream())
    emulator.set_mode("eager")
    assert peek(target) == b"\1"


def random_progress(emulator: Emulator, cuda: Driver, seed: int) -> list[bytes]:
    emulator.set_mode("random", seed)
    streams = [cuda.stream() for _ in range(3)]
    targets = [cuda.device(1, fill=0) for _ in streams]
    seen = []
    for value in range(1, 9):
        for stream, target in zip(streams, targets, strict=True):
            cuda.fill(target, value, 1, stream)
            seen += [peek(each) for each in targets]
    cuda.synchronize()
    assert [peek(target) for target in targets] == [b"\x08"] * 3
    return seen


def test_at_random_some_of_what_may_run_does_by_the_seed(emulator: Emulator, cuda: Driver) -> None:
    runs = [random_progress(emulator, cuda, seed) for seed in (1, 2, 1)]
    assert runs[0] == runs[2] != runs[1]
    for seen in runs:
        for stream in range(3):
            values = seen[stream::3]
            assert values == sorted(values), "out of the stream's order"
            assert len(set(values)) > 3, "no progress on the way"


def test_an_unknown_mode_is_refused(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="hasty"):
        emulator.set_mode("hasty")  # type: ignore[arg-type]


def test_synchronizing_one_stream_runs_no_other(cuda: Driver) -> None:
    one, other, target = cuda.stream(), cuda.stream(), cuda.device(2)
    cuda.fill(target, 1, 1, one)
    cuda.fill(target + 1, 1, 1, other)
    cuda.synchronize_stream(one)
    assert peek(target, 2) == b"\1" + NEW_DEVICE


def test_a_destroyed_streams_work_still_runs(emulator: Emulator, cuda: Driver) -> None:
    stream, event, target = cuda.stream(), cuda.event(), cuda.device(1)
    cuda.fill(target, 1, 1, stream)
    cuda.record(event, stream)
    cuda.call("cuStreamDestroy_v2", stream)
    assert peek(target) == NEW_DEVICE
    assert emulator.live("streams") == 0
    cuda.synchronize_event(event)
    assert peek(target) == b"\1"


# Events


def test_a_stream_waits_for_a_record_and_all_before_it(cuda: Driver) -> None:
    copy, compute, event = cuda.stream(), cuda.stream(), cuda.event()
    source, image, result = cuda.pinned(1, fill=7), cuda.device(1), cuda.device(1)
    cuda.to_device(image, source, 1, copy)
    cuda.record(event, copy)
    cuda.wait(compute, event)
    cuda.on_device(result, image, 1, compute)
    cuda.synchronize_stream(compute)
    assert peek(result) == b"\7"


def test_without_the_wait_the_consumer_sees_poison(emulator: Emulator, cuda: Driver) -> None:
    copy, compute = cuda.stream(), cuda.stream()
    source, image, result = cuda.pinned(1, fill=7), cuda.device(1), cuda.device(1)
    cuda.to_device(image, source, 1, copy)
    cuda.on_device(result, image, 1, compute)
    cuda.synchronize_stream(compute)
    assert peek(result) == NEW_DEVICE
    assert kinds(emulator) == ["race"]


def test_what_follows_a_record_is_not_part_of_it(cuda: Driver) -> None:
    stream, event, target = cuda.stream(), cuda.event(), cuda.device(2)
    cuda.fill(target, 1, 1, stream)
    cuda.record(event, stream)
    cuda.fill(target + 1, 1, 1, stream)
    cuda.synchronize_event(event)
    assert peek(target, 2) == b"\1" + NEW_DEVICE


def test_a_wait_stays_with_the_record_that_was_the_latest_at_the_call(cuda: Driver) -> None:
    copy, compute, event, target = cuda.stream(), cuda.stream(), cuda.event(), cuda.device(3)
    cuda.fill(target, 1, 1, copy)
    cuda.record(event, copy)
    cuda.wait(compute, event)
    cuda.fill(target + 1, 1, 1, copy)
    cuda.record(event, copy)
    cuda.fill(target + 2, 1, 1, compute)
    cuda.synchronize_stream(compute)
    assert peek(target, 3) == b"\1" + NEW_DEVICE + b"\1"
    cuda.synchronize_event(event)
    assert peek(target, 3) == b"\1\1\1"


def test_an_event_follows_its_record_to_another_stream(cuda: Driver) -> None:
    first, second, event, target = cuda.stream(), cuda.stream(), cuda.event(), cuda.device(2)
    cuda.fill(target, 1, 1, first)
    cuda.record(event, first)
    cuda.fill(target + 1, 1, 1, second)
    cuda.record(event, second)
    cuda.synchronize_event(event)
    assert peek(target, 2) == NEW_DEVICE + b"\1"


def test_an_event_never_recorded_is_complete_and_holds_nobody(emulator: Emulator, cuda: Driver) -> None:
    stream, event, target = cuda.stream(), cuda.event(), cuda.device(1)
    cuda.wait(stream, event)
    assert emulator.live("operations") == 0
    cuda.fill(target, 1, 1, stream)
    cuda.record(event, cuda.stream())
    cuda.synchronize_stream(stream)
    assert peek(target) == b"\1"
    cuda.synchronize_event(cuda.event())
    cuda.call("cuEventQuery", cuda.event())


def test_a_wait_outlives_its_event(cuda: Driver) -> None:
    copy, compute, event, target = cuda.stream(), cuda.stream(), cuda.event(), cuda.device(1)
    cuda.fill(target, 1, 1, copy)
    cuda.record(event, copy)
    cuda.wait(compute, event)
    cuda.call("cuEventDestroy_v2", event)
    cuda.synchronize_stream(compute)
    assert peek(target) == b"\1"


@pytest.mark.parametrize("polls", [0, 3, 10])
@pytest.mark.parametrize("of", ["event", "stream"])
def test_queries_answer_not_ready_so_many_times_and_then_make_progress(
    emulator: Emulator, cuda: Driver, of: str, polls: int
) -> None:
    emulator.set_patience(polls)
    stream, event, target = cuda.stream(), cuda.event(), cuda.device(1)
    for value in (1, 2):
        cuda.fill(target, value, 1, stream)
        cuda.record(event, stream)
        name, handle = ("cuEventQuery", event) if of == "event" else ("cuStreamQuery", stream)
        assert [cuda.code(name, handle) for _ in range(polls + 2)] == [NOT_READY] * polls + [0, 0]
        assert peek(target) == bytes([value])


def test_elapsed_time_is_that_between_the_records(cuda: Driver) -> None:
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    milliseconds = ctypes.c_float(-1)
    cuda.record(start, stream)
    cuda.record(end, stream)
    assert cuda.code("cuEventElapsedTime", ctypes.byref(milliseconds), start, end) == NOT_READY
    cuda.synchronize_event(end)
    cuda.call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
    assert 0 <= milliseconds.value < 60_000


@pytest.mark.parametrize("name", ["cuEventElapsedTime", "cuEventElapsedTime_v2"])
def test_time_is_told_only_by_recorded_events_that_keep_it(cuda: Driver, name: str) -> None:
    stream, timed, untimed, unrecorded = cuda.stream(), cuda.event(), cuda.event(DISABLE_TIMING), cuda.event()
    cuda.record(timed, stream)
    cuda.record(untimed, stream)
    cuda.synchronize()
    milliseconds = ctypes.c_float()
    assert cuda.code(name, ctypes.byref(milliseconds), timed, untimed) == INVALID_HANDLE
    assert cuda.code(name, ctypes.byref(milliseconds), timed, unrecorded) == INVALID_HANDLE
    assert cuda.code(name, ctypes.byref(milliseconds), timed, timed) == 0


# Default streams


def test_the_legacy_stream_waits_for_blocking_streams_only(emulator: Emulator, cuda: Driver) -> None:
    target = cuda.device(3)
    cuda.fill(target, 1, 1, cuda.stream(BLOCKING))
    cuda.fill(target + 1, 1, 1, cuda.stream(NON_BLOCKING))
    cuda.fill(target + 2, 1, 1, LEGACY)
    cuda.synchronize_stream(LEGACY)
    assert peek(target, 3) == b"\1" + NEW_DEVICE + b"\1"


def test_synchronizing_the_legacy_stream_waits_for_blocking_streams(cuda: Driver) -> None:
    target = cuda.device(2)
    cuda.fill(target, 1, 1, cuda.stream(BLOCKING))
    cuda.fill(target + 1, 1, 1, cuda.stream(NON_BLOCKING))
    assert cuda.code("cuStreamQuery", LEGACY) == NOT_READY
    cuda.synchronize_stream(LEGACY)
    assert peek(target, 2) == b"\1" + NEW_DEVICE


def test_blocking_streams_wait_for_the_legacy_stream_and_others_do_not(cuda: Driver) -> None:
    blocking, other, target = cuda.stream(BLOCKING), cuda.stream(NON_BLOCKING), cuda.device(3)
    cuda.fill(target, 1, 1, LEGACY)
    cuda.fill(target + 1, 1, 1, other)
    cuda.synchronize_stream(other)
    assert peek(target, 2) == NEW_DEVICE + b"\1"
    cuda.fill(target + 2, 1, 1, blocking)
    cuda.synchronize_stream(blocking)
    assert peek(target, 3) == b"\1\1\1"


def test_a_blocking_stream_does_not_wait_for_later_work_of_the_legacy_stream(cuda: Driver) -> None:
    blocking, target = cuda.stream(BLOCKING), cuda.device(2)
    cuda.fill(target, 1, 1, blocking)
    cuda.fill(target + 1, 1, 1, LEGACY)
    cuda.synchronize_stream(blocking)
    assert peek(target, 2) == b"\1" + NEW_DEVICE


def test_each_thread_has_its_own_per_thread_stream_which_is_blocking(cuda: Driver) -> None:
    target = cuda.device(3)

    def elsewhere() -> None:
        cuda.make_current()
        cuda.fill(target, 1, 1, PER_THREAD)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    cuda.fill(target + 1, 1, 1, PER_THREAD)
    cuda.synchronize_stream(PER_THREAD)
    assert peek(target, 2) == NEW_DEVICE + b"\1"
    cuda.fill(target + 2, 1, 1, LEGACY)
    cuda.synchronize_stream(LEGACY)
    assert peek(target, 3) == b"\1\1\1"


# Everything at once


def random_program(cuda: Driver, seed: int) -> bytes:
    """Random work on four streams, made of what a landing does, each buffer's bytes at the end."""
    choices = random.Random(seed)
    streams = [cuda.stream(), cuda.stream(), cuda.stream(BLOCKING), LEGACY]
    events = [cuda.event() for _ in range(3)]
    buffers = [cuda.device(8, fill=0) for _ in range(5)] + [cuda.pinned(8, fill=0)]
    for step in range(choices.randint(4, 20)):
        stream, event = choices.choice(streams), choices.choice(events)
        target, source = choices.sample(buffers, 2)
        action = choices.choice(
            ("copy", "copy", "fill", "fill", "record", "wait", "record", "wait", "sync", "sync event")
        )
        if action == "copy":
            cuda.call("cuMemcpyAsync", target + choices.randrange(4), source, 4, stream)
        elif action == "fill":
            cuda.fill(target, step + 1, 8, stream)
        elif action == "record":
            cuda.record(event, stream)
        elif action == "wait":
            cuda.wait(stream, event)
        elif action == "sync":
            cuda.synchronize_stream(stream)
        else:
            cuda.synchronize_event(event)
    cuda.synchronize()
    end = b"".join(peek(buffer, 8) for buffer in buffers)
    for buffer in buffers[:-1]:
        cuda.free(buffer)
    cuda.free_pinned(buffers[-1])
    return end


def test_programs_without_a_race_end_the_same_however_they_run_and_others_do_not(
    emulator: Emulator, cuda: Driver
) -> None:
    ordered, racing, diverging = 0, 0, 0
    for seed in range(200):
        emulator.set_mode("lazy")
        ends = {random_program(cuda, seed)}
        found = {misuse.kind for misuse in emulator.take_misuses()}
        assert found <= {"race", "source-changed"}
        for order in range(4):
            emulator.set_mode("random", order + 1)
            ends.add(random_program(cuda, seed))
        emulator.set_mode("eager")
        ends.add(random_program(cuda, seed))
        emulator.reset()
        if found:
            racing += 1
            diverging += len(ends) > 1
        else:
            ordered += 1
            assert len(ends) == 1, f"seed {seed}: no race was reported, and yet the order matters"
    assert ordered > 50
    assert diverging > racing // 3
