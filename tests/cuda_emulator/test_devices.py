"""A machine with two devices: contexts, memory, streams and events of each."""

import ctypes

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import (
    BLOCKING,
    INVALID_HANDLE,
    LEGACY,
    NEW_DEVICE,
    OUT_OF_MEMORY,
    Driver,
    DriverError,
    kinds,
    peek,
)

MIB = 1 << 20
INVALID_DEVICE = 101


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> Driver:
    """Of the first device."""
    monkeypatch.setenv("CUDA_EMULATOR_DEVICES", "2")
    return Driver(emulator)


@pytest.fixture
def second(cuda: Driver) -> Driver:
    """The second one, whose context is current."""
    return Driver(cuda.emulator, 1)


def current_device(cuda: Driver) -> int:
    device = ctypes.c_int()
    cuda.call("cuCtxGetDevice", ctypes.byref(device))
    return device.value


def attribute(cuda: Driver, number: int, address: int) -> int:
    value = ctypes.c_int()
    cuda.call("cuPointerGetAttribute", ctypes.byref(value), number, address)
    return value.value


def test_there_are_as_many_as_the_environment_says(cuda: Driver) -> None:
    count = ctypes.c_int()
    cuda.call("cuDeviceGetCount", ctypes.byref(count))
    assert count.value == 2
    assert cuda.code("cuDevicePrimaryCtxRetain", ctypes.byref(ctypes.c_void_p()), 2) == INVALID_DEVICE


def test_each_has_a_context_of_its_own(cuda: Driver, second: Driver) -> None:
    assert cuda.context != second.context
    assert current_device(second) == 1
    cuda.make_current()
    assert current_device(cuda) == 0


def test_memory_is_that_of_the_device_whose_context_is_current(cuda: Driver, second: Driver) -> None:
    ordinal = 9
    there = second.device(4)
    cuda.make_current()
    here = cuda.device(4)
    assert [attribute(cuda, ordinal, address) for address in (here, there)] == [0, 1]


def test_each_has_memory_of_its_own(emulator: Emulator, cuda: Driver, second: Driver) -> None:
    emulator.set_device_memory(MIB)
    memory = second.device(MIB)
    with pytest.raises(DriverError) as full:
        second.device(1)
    assert full.value.code == OUT_OF_MEMORY
    cuda.make_current()
    cuda.free(cuda.device(MIB))
    second.make_current()
    second.free(memory)
    second.free(second.device(MIB))


def test_memory_of_a_pool_is_that_of_the_streams_device(cuda: Driver, second: Driver) -> None:
    stream = second.stream()
    cuda.make_current()
    assert attribute(cuda, 9, cuda.device_async(4, stream)) == 1


def test_the_legacy_stream_waits_for_streams_of_its_device_alone(cuda: Driver, second: Driver) -> None:
    there, over_there = second.stream(BLOCKING), second.device(4)
    second.fill(over_there, 1, 4, there)
    cuda.make_current()
    here, over_here = cuda.stream(BLOCKING), cuda.device(4)
    cuda.fill(over_here, 1, 4, here)
    cuda.synchronize_stream(LEGACY)
    assert peek(over_here, 4) == b"\1" * 4
    assert peek(over_there, 4) == NEW_DEVICE * 4


def test_an_event_is_recorded_on_streams_of_its_device_alone(cuda: Driver, second: Driver) -> None:
    event = second.event()
    cuda.make_current()
    assert cuda.code("cuEventRecord", event, cuda.stream()) == INVALID_HANDLE


def test_a_stream_may_wait_for_an_event_of_another_device(emulator: Emulator, cuda: Driver, second: Driver) -> None:
    there, event, source = second.stream(), second.event(), second.device(4)
    second.fill(source, 1, 4, there)
    second.record(event, there)
    cuda.make_current()
    here, target = cuda.stream(), cuda.device(4)
    cuda.wait(here, event)
    cuda.on_device(target, source, 4, here)
    cuda.synchronize_stream(here)
    assert peek(target, 4) == b"\1" * 4
    assert kinds(emulator) == []


def test_without_that_wait_it_is_a_race(emulator: Emulator, cuda: Driver, second: Driver) -> None:
    there, source = second.stream(), second.device(4)
    second.fill(source, 1, 4, there)
    cuda.make_current()
    cuda.on_device(cuda.device(4), source, 4, cuda.stream())
    assert kinds(emulator) == ["race"]
