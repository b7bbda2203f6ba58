"""Stream capture: what goes into a graph, when it runs, and which calls break a capture."""

import ctypes
import threading
from collections.abc import Callable

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import BLOCKING, LEGACY, NEW_DEVICE, Driver, kinds, peek

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
NONE, ACTIVE, INVALIDATED = range(3)
UNSUPPORTED = 900
BROKEN = 901
UNJOINED = 904
ISOLATION = 905
IMPLICIT = 906
CAPTURED_EVENT = 907


class Capture:
    """A capture that has begun on a stream of its own."""

    def __init__(self, cuda: Driver, mode: int = GLOBAL) -> None:
        self._cuda = cuda
        self.stream = cuda.stream()
        cuda.call("cuStreamBeginCapture_v2", self.stream, mode)

    def status(self) -> int:
        status = ctypes.c_int()
        self._cuda.call("cuStreamIsCapturing", self.stream, ctypes.byref(status))
        return status.value

    def end(self) -> int:
        """The code."""
        self.graph = ctypes.c_uint64()
        return self._cuda.code("cuStreamEndCapture", self.stream, ctypes.byref(self.graph))

    def launch(self, stream: int) -> None:
        executable = ctypes.c_uint64()
        self._cuda.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), self.graph.value, 0)
        self._cuda.call("cuGraphLaunch", executable.value, stream)
        self._cuda.call("cuGraphExecDestroy", executable.value)


def exchange(cuda: Driver, mode: int) -> int:
    """Set the thread's mode; the one before."""
    value = ctypes.c_int(mode)
    cuda.call("cuThreadExchangeStreamCaptureMode", ctypes.byref(value))
    return value.value


def elsewhere(function: Callable[[], int]) -> int:
    """What it returns in a thread of its own."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_what_is_captured_runs_when_the_graph_is_launched_and_each_time(cuda: Driver, emulator: Emulator) -> None:
    emulator.set_mode("eager")
    target, source = cuda.device(4), cuda.pinned(4, fill=1)
    capture = Capture(cuda)
    cuda.to_device(target, source, 4, capture.stream)
    cuda.fill(target, 2, 2, capture.stream)
    assert capture.status() == ACTIVE
    assert capture.end() == 0
    assert capture.status() == NONE
    assert peek(target, 4) == NEW_DEVICE * 4
    stream = cuda.stream()
    for _ in range(2):
        capture.launch(stream)
        assert peek(target, 4) == b"\2\2\1\1"
        cuda.fill(target, 9, 4, stream)


def test_a_stream_that_waits_for_it_joins_the_capture(cuda: Driver, emulator: Emulator) -> None:
    target, side, events = cuda.device(4), cuda.stream(), [cuda.event(), cuda.event()]
    capture = Capture(cuda)
    cuda.record(events[0], capture.stream)
    cuda.wait(side, events[0])
    cuda.fill(target, 1, 4, side)
    cuda.record(events[1], side)
    cuda.wait(capture.stream, events[1])
    assert capture.end() == 0
    capture.launch(cuda.stream())
    cuda.synchronize()
    assert peek(target, 4) == b"\1" * 4
    assert kinds(emulator) == []


def test_a_stream_that_joined_has_to_be_waited_for(cuda: Driver) -> None:
    side, event = cuda.stream(), cuda.event()
    capture = Capture(cuda)
    cuda.record(event, capture.stream)
    cuda.wait(side, event)
    assert capture.end() == UNJOINED


def test_waiting_for_uncaptured_work_breaks_it(cuda: Driver) -> None:
    event, before = cuda.event(), cuda.stream()
    cuda.record(event, before)
    capture = Capture(cuda)
    assert cuda.code("cuStreamWaitEvent", capture.stream, event, 0) == ISOLATION
    assert capture.status() == INVALIDATED
    assert capture.end() == BROKEN


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
def test_waiting_for_the_capturing_stream_breaks_it(cuda: Driver, mode: int) -> None:
    capture = Capture(cuda, mode)
    assert cuda.code("cuStreamSynchronize", capture.stream) == UNSUPPORTED
    assert capture.end() == BROKEN


def test_asking_for_a_captured_event_breaks_it_whatever_the_threads_mode(cuda: Driver) -> None:
    event = cuda.event()
    capture = Capture(cuda)
    cuda.record(event, capture.stream)
    exchange(cuda, RELAXED)
    assert cuda.code("cuEventQuery", event) == CAPTURED_EVENT
    assert capture.end() == BROKEN


def test_the_legacy_stream_would_draw_in_a_blocking_one(cuda: Driver) -> None:
    stream = cuda.stream(BLOCKING)
    cuda.call("cuStreamBeginCapture_v2", stream, RELAXED)
    assert cuda.code("cuEventRecord", cuda.event(), LEGACY) == IMPLICIT


UNSAFE: list[tuple[str, Callable[[Driver], int]]] = [
    ("cuMemAlloc", lambda cuda: cuda.code("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4)),
    ("cuMemHostAlloc", lambda cuda: cuda.code("cuMemHostAlloc", ctypes.byref(ctypes.c_uint64()), 4, 0)),
    ("cuEventQuery", lambda cuda: cuda.code("cuEventQuery", cuda.event())),
    ("cuStreamSynchronize", lambda cuda: cuda.code("cuStreamSynchronize", cuda.stream())),
    ("cuCtxSynchronize", lambda cuda: cuda.code("cuCtxSynchronize")),
]


@pytest.mark.parametrize(("mode", "breaks"), [(GLOBAL, True), (THREAD_LOCAL, False), (RELAXED, False)])
@pytest.mark.parametrize(("name", "call"), UNSAFE, ids=[name for name, _ in UNSAFE])
def test_in_another_thread_calls_that_may_wait_break_a_global_capture(
    cuda: Driver, name: str, call: Callable[[Driver], int], mode: int, breaks: bool
) -> None:
    capture = Capture(cuda, mode)

    def run() -> int:
        cuda.make_current()
        return call(cuda)

    assert elsewhere(run) == (UNSUPPORTED if breaks else 0)
    assert capture.end() == (BROKEN if breaks else 0)


@pytest.mark.parametrize(("name", "call"), UNSAFE, ids=[name for name, _ in UNSAFE])
def test_but_not_in_a_thread_that_had_itself_excepted(cuda: Driver, name: str, call: Callable[[Driver], int]) -> None:
    capture = Capture(cuda)

    def run() -> int:
        cuda.make_current()
        assert exchange(cuda, RELAXED) == GLOBAL
        assert exchange(cuda, RELAXED) == RELAXED
        return call(cuda)

    assert elsewhere(run) == 0
    assert capture.end() == 0


def test_memory_whose_free_is_refused_stays(cuda: Driver, emulator: Emulator) -> None:
    memory = cuda.device(4)
    Capture(cuda)
    assert cuda.code("cuMemFree_v2", memory) == UNSUPPORTED
    assert emulator.live("device") == 1
