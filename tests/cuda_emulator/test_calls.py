"""What calls answer: errors that were planned, contexts, threads, host functions, and how calls are found."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.checkpoints import PATIENCE
from tests.cuda_emulator import Emulator, Mode
from tests.cuda_emulator.driver import (
    ILLEGAL_ADDRESS,
    LEGACY,
    NEW_DEVICE,
    NO_CONTEXT,
    OUT_OF_MEMORY,
    PER_THREAD,
    Driver,
    DriverError,
    host_function,
    kinds,
    peek,
    stream_callback,
)

# Failures


def test_the_nth_call_fails_and_no_other(emulator: Emulator, cuda: Driver) -> None:
    emulator.fail("cuMemAlloc", 2, OUT_OF_MEMORY)
    cuda.device(1)
    cuda.stream()
    with pytest.raises(DriverError) as error:
        cuda.device(1)
    assert error.value.code == OUT_OF_MEMORY
    cuda.device(1)
    assert emulator.live("device") == 2


def test_every_call_fails_and_any_call_fails(emulator: Emulator, cuda: Driver) -> None:
    emulator.fail("cuMemAlloc", 0, OUT_OF_MEMORY)
    address = ctypes.c_uint64()
    assert [cuda.code("cuMemAlloc_v2", ctypes.byref(address), 1) for _ in range(3)] == [OUT_OF_MEMORY] * 3
    emulator.reset()
    emulator.fail("*", 2, 999)
    cuda.device(1)
    assert cuda.code("cuStreamCreate", ctypes.byref(address), 0) == 999
    cuda.stream()


def test_a_call_that_frees_does_so_though_it_fails(emulator: Emulator, cuda: Driver) -> None:
    for name in ("cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy"):
        emulator.fail(name, 1, 999)
    assert cuda.code("cuMemFree_v2", cuda.device(1)) == 999
    assert cuda.code("cuMemFreeHost", cuda.pinned(1)) == 999
    assert cuda.code("cuStreamDestroy_v2", cuda.stream()) == 999
    assert cuda.code("cuEventDestroy_v2", cuda.event()) == 999
    assert emulator.leaks() == {}


@pytest.mark.parametrize("code", [46, 214, 700, 719])
def test_a_lost_device_stays_lost_and_lets_go_of_its_memory(emulator: Emulator, cuda: Driver, code: int) -> None:
    stream, image, other = cuda.stream(), cuda.device(4), cuda.device_async(4, LEGACY)
    cuda.synchronize()
    cuda.fill(image, 1, 4, stream)
    cuda.free_async(other, stream)
    emulator.fail("cuEventCreate", 1, code)
    with pytest.raises(DriverError):
        cuda.event()
    for name in ("cuEventCreate", "cuMemAlloc_v2"):
        assert cuda.code(name, ctypes.byref(ctypes.c_uint64()), 0) == code
    assert cuda.code("cuCtxSynchronize") == code
    assert peek(image, 4) == NEW_DEVICE * 4
    assert cuda.code("cuMemFree_v2", image) == code
    assert cuda.code("cuStreamDestroy_v2", stream) == code
    assert emulator.leaks() == {}
    assert emulator.misuses() == []
    emulator.reset()
    cuda.synchronize()


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_an_operation_fails_when_it_runs_and_the_next_wait_tells(emulator: Emulator, cuda: Driver, mode: Mode) -> None:
    emulator.set_mode(mode)
    stream, event, slot, image = cuda.stream(), cuda.event(), cuda.pinned(2, fill=1), cuda.device(3)
    emulator.fail_when_run("cuMemcpyHtoDAsync", 2, ILLEGAL_ADDRESS)
    cuda.fill(image + 2, 1, 1, stream)
    cuda.to_device(image, slot, 1, stream)
    cuda.to_device(image + 1, slot, 1, stream)
    if mode == "lazy":
        # The device is lost once: what would fail after that does not.
        emulator.fail_when_run("cuMemsetD8Async", 2, 719)
        cuda.fill(image, 1, 1, stream)
        cuda.record(event, stream)
        assert cuda.code("cuEventSynchronize", event) == ILLEGAL_ADDRESS
    assert cuda.code("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS
    assert peek(image, 3) == b"\1" + NEW_DEVICE + b"\1"


def test_a_blocking_copy_tells_of_its_own_failure(emulator: Emulator, cuda: Driver) -> None:
    emulator.fail_when_run("cuMemcpyDtoH", 1, ILLEGAL_ADDRESS)
    assert cuda.code("cuMemcpyDtoH_v2", cuda.pinned(1), cuda.device(1), 1) == ILLEGAL_ADDRESS


def test_plans_that_cannot_be_kept_are_refused(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="cuInit"):
        emulator.fail("cuInit", -1)
    for _ in range(64):
        emulator.fail("cuInit", 1)
    with pytest.raises(ValueError, match="cuInit"):
        emulator.fail("cuInit", 1)


def test_calls_are_logged_by_public_name(emulator: Emulator, cuda: Driver) -> None:
    emulator.reset()
    cuda.free(cuda.device(1))
    cuda.code("cuStreamQuery", LEGACY)
    assert emulator.calls() == ["cuMemAlloc", "cuMemFree", "cuStreamQuery"]


# Contexts and threads


def test_nothing_works_before_initialisation(emulator: Emulator) -> None:
    assert emulator.library.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 3
    assert emulator.library.cuMemFree_v2(ctypes.c_uint64(0)) == 3


def test_a_thread_has_no_context_until_it_is_given_one(cuda: Driver) -> None:
    stream, address = cuda.stream(), ctypes.c_uint64()

    def elsewhere() -> list[int]:
        before = [
            cuda.code("cuMemAlloc_v2", ctypes.byref(address), 1),
            cuda.code("cuEventCreate", ctypes.byref(address), 0),
            cuda.code("cuStreamSynchronize", LEGACY),
            cuda.code("cuStreamSynchronize", stream),
        ]
        cuda.make_current()
        return [*before, cuda.code("cuMemAlloc_v2", ctypes.byref(address), 1)]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(elsewhere).result() == [NO_CONTEXT, NO_CONTEXT, NO_CONTEXT, 0, 0]


def test_contexts_are_stacked_and_counted(emulator: Emulator, cuda: Driver) -> None:
    current = ctypes.c_uint64()
    cuda.call("cuCtxPushCurrent_v2", cuda.context)
    cuda.call("cuCtxPopCurrent_v2", ctypes.byref(current))
    cuda.call("cuCtxPopCurrent_v2", ctypes.byref(current))
    assert cuda.code("cuCtxPopCurrent_v2", ctypes.byref(current)) == NO_CONTEXT
    cuda.make_current()
    cuda.call("cuDevicePrimaryCtxRelease_v2", 0)
    assert emulator.live("contexts") == 0
    assert cuda.code("cuCtxSynchronize") == 709


def test_threads_may_share_everything(emulator: Emulator, cuda: Driver) -> None:
    emulator.set_mode("random", 5)
    streams = [cuda.stream() for _ in range(4)]

    def work(number: int) -> bool:
        cuda.make_current()
        right = True
        for turn in range(50):
            slot, image, event = cuda.pinned(64, fill=turn), cuda.device(64), cuda.event()
            stream = streams[(number + turn) % len(streams)]
            cuda.to_device(image, slot, 64, stream)
            cuda.record(event, stream)
            cuda.wait(streams[turn % len(streams)], event)
            cuda.synchronize_event(event)
            right &= peek(image, 64) == bytes([turn]) * 64
            cuda.call("cuEventDestroy_v2", event)
            cuda.free(image)
            cuda.free_pinned(slot)
        return right

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    cuda.synchronize()
    assert emulator.misuses() == []
    assert emulator.leaks() == {"streams": 4}


def test_host_functions_run_in_stream_order_and_may_not_call_cuda(emulator: Emulator, cuda: Driver) -> None:
    stream, target, seen = cuda.stream(), cuda.device(1), []

    def function() -> None:
        seen.append((peek(target), cuda.code("cuMemFree_v2", target), cuda.code("cuCtxSynchronize")))

    launched = host_function(function)
    cuda.fill(target, 1, 1, stream)
    cuda.call("cuLaunchHostFunc", stream, launched, None)
    cuda.fill(target, 2, 1, stream)
    assert seen == []
    cuda.synchronize_stream(stream)
    assert seen == [(b"\1", 800, 800)]
    assert peek(target) == b"\2"
    assert kinds(emulator) == ["call-in-callback"] * 2


def test_a_host_function_runs_once_and_holds_up_only_its_own_stream(emulator: Emulator, cuda: Driver) -> None:
    stream, other, target, runs = cuda.stream(), cuda.stream(), cuda.device(2), []
    entered, go_on = threading.Event(), threading.Event()

    def function() -> None:
        entered.set()
        runs.append(go_on.wait(PATIENCE))

    def wait_for_stream() -> bytes:
        cuda.synchronize_stream(stream)
        return peek(target)

    launched = host_function(function)
    cuda.call("cuLaunchHostFunc", stream, launched, None)
    cuda.fill(target, 1, 1, stream)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(wait_for_stream) for _ in range(2)]
        assert entered.wait(PATIENCE)
        emulator.set_mode("random")
        for _ in range(40):
            cuda.fill(target + 1, 1, 1, other)
        cuda.synchronize_stream(other)
        assert peek(target, 2) == NEW_DEVICE + b"\1"
        go_on.set()
        assert [wait.result() for wait in waiting] == [b"\1"] * 2
    assert runs == [True], "once, and the other stream went on meanwhile"


def test_a_callback_hears_of_a_lost_device_and_a_host_function_does_not_run(emulator: Emulator, cuda: Driver) -> None:
    stream, seen = cuda.stream(), []

    def hear(code: int, argument: int) -> None:
        seen.append((code, argument))

    def function() -> None:
        seen.append((0, 0))

    callback, launched = stream_callback(hear), host_function(function)
    cuda.call("cuStreamAddCallback", stream, callback, 5, 0)
    cuda.call("cuStreamAddCallback", stream, callback, 6, 0)
    cuda.call("cuLaunchHostFunc", stream, launched, None)
    emulator.fail("cuStreamCreate", 1, ILLEGAL_ADDRESS)
    with pytest.raises(DriverError):
        cuda.stream()
    emulator.set_mode("eager")
    assert seen == [(ILLEGAL_ADDRESS, 5), (ILLEGAL_ADDRESS, 6)]


# Looking functions up


def test_functions_are_found_by_name_and_version(cuda: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def exported(name: str) -> int:
        return ctypes.cast(getattr(cuda.emulator.library, name), ctypes.c_void_p).value or 0

    assert cuda.found("cuMemAlloc") == exported("cuMemAlloc_v2")
    assert cuda.found("cuStreamGetCtx", 9020) == exported("cuStreamGetCtx")
    assert cuda.found("cuStreamGetCtx", 12050) == exported("cuStreamGetCtx_v2")
    assert cuda.found("cuMemcpyBatchAsync", 12080) == exported("cuMemcpyBatchAsync")
    assert cuda.found("cuLaunchKernel") == 0
    monkeypatch.setenv("CUDA_EMULATOR_DRIVER_VERSION", "12020")
    assert cuda.found("cuStreamGetCtx", 12050) == exported("cuStreamGetCtx")
    assert cuda.found("cuMemcpyBatchAsync", 12080) == 0


def test_functions_for_per_thread_default_streams_use_this_threads(cuda: Driver) -> None:
    target = cuda.device(2)
    fill = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p)
    per_thread = fill(cuda.found("cuMemsetD8Async", flags=2))
    assert per_thread(target, 1, 1, None) == 0

    def elsewhere() -> None:
        cuda.make_current()
        assert per_thread(target + 1, 1, 1, None) == 0
        cuda.synchronize_stream(PER_THREAD)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(elsewhere).result()
    assert peek(target, 2) == NEW_DEVICE + b"\1"
    cuda.synchronize_stream(PER_THREAD)
    assert peek(target, 2) == b"\1\1"
