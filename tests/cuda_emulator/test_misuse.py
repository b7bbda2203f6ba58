"""What CUDA forbids, or does not promise, is reported; what it allows is not."""

import ctypes
import mmap
from collections.abc import Callable

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import (
    BLOCKING,
    FREED_DEVICE,
    INVALID_HANDLE,
    LEGACY,
    NEW_DEVICE,
    NON_BLOCKING,
    Driver,
    DriverError,
    Pageable,
    kinds,
    peek,
)


def test_unordered_use_of_the_same_bytes_is_a_race_whatever_is_waited_for(emulator: Emulator, cuda: Driver) -> None:
    copy, compute, slot = cuda.stream(), cuda.stream(), cuda.pinned(4, fill=7)
    image, result = cuda.device(4), cuda.device(4)
    cuda.to_device(image, slot, 4, copy)
    cuda.on_device(result, image, 4, compute)
    cuda.synchronize_stream(copy)
    cuda.synchronize_stream(compute)
    assert peek(result, 4) == b"\7" * 4, "right by luck"
    assert kinds(emulator) == ["race"]


def order_by_event(cuda: Driver, first: int, second: int) -> None:
    event = cuda.event()
    cuda.record(event, first)
    cuda.wait(second, event)


def order_by_third(cuda: Driver, first: int, second: int) -> None:
    third = cuda.stream()
    order_by_event(cuda, first, third)
    order_by_event(cuda, third, second)


def order_by_host(cuda: Driver, first: int, second: int) -> None:
    cuda.synchronize_stream(first)


@pytest.mark.parametrize("order", [order_by_event, order_by_third, order_by_host])
def test_ordered_use_is_no_race(emulator: Emulator, cuda: Driver, order: Callable[[Driver, int, int], None]) -> None:
    first, second, image = cuda.stream(), cuda.stream(), cuda.device(4)
    cuda.fill(image, 1, 4, first)
    order(cuda, first, second)
    cuda.fill(image, 2, 4, second)
    assert emulator.misuses() == []


def test_a_record_before_the_copy_orders_nothing(emulator: Emulator, cuda: Driver) -> None:
    copy, compute, event, image = cuda.stream(), cuda.stream(), cuda.event(), cuda.device(4)
    cuda.record(event, copy)
    cuda.fill(image, 1, 4, copy)
    cuda.wait(compute, event)
    cuda.fill(image, 2, 4, compute)
    assert kinds(emulator) == ["race"]


def test_what_a_stream_waits_for_after_its_record_is_not_part_of_it(emulator: Emulator, cuda: Driver) -> None:
    copy, compute, third, image = cuda.stream(), cuda.stream(), cuda.stream(), cuda.device(4)
    cuda.fill(image, 1, 4, third)
    order_by_event(cuda, copy, compute)
    order_by_event(cuda, third, copy)
    cuda.fill(image, 2, 4, compute)
    assert kinds(emulator) == ["race"]


def test_default_streams_order_as_they_run(emulator: Emulator, cuda: Driver) -> None:
    image = cuda.device(4)
    cuda.fill(image, 1, 4, cuda.stream(BLOCKING))
    cuda.fill(image, 2, 4, LEGACY)
    cuda.fill(image, 3, 4, cuda.stream(BLOCKING))
    assert emulator.misuses() == []
    cuda.fill(image, 4, 4, cuda.stream(NON_BLOCKING))
    assert kinds(emulator) == ["race"]


def test_reading_twice_and_neighbours_are_no_race(emulator: Emulator, cuda: Driver) -> None:
    image, results = cuda.device(8), cuda.device(8)
    cuda.on_device(results, image, 8, cuda.stream())
    cuda.on_device(cuda.device(8), image, 8, cuda.stream())
    cuda.fill(image, 1, 4, one := cuda.stream())
    emulator.reset()
    cuda.synchronize()
    cuda.fill(image, 1, 4, one)
    cuda.fill(image + 4, 1, 4, cuda.stream())
    assert emulator.misuses() == []


@pytest.mark.parametrize("memory", ["device", "pinned", "registered"])
def test_freeing_memory_under_an_operation_is_reported_and_waited_for(
    emulator: Emulator, cuda: Driver, memory: str
) -> None:
    stream, image, pageable = cuda.stream(), cuda.device(4), Pageable(b"\3" * 4)
    slot = pageable.address if memory == "registered" else cuda.pinned(4, fill=3)
    if memory == "registered":
        cuda.call("cuMemHostRegister_v2", slot, 4, 0)
    kept = cuda.pinned(4)
    cuda.to_device(image, slot, 4, stream)
    cuda.to_host(kept, image, 4, stream)
    free = {"device": "cuMemFree_v2", "pinned": "cuMemFreeHost", "registered": "cuMemHostUnregister"}[memory]
    cuda.call(free, image if memory == "device" else slot)
    assert kinds(emulator) == ["freed-in-use"]
    assert peek(kept, 4) == b"\3" * 4


def test_freeing_memory_that_nobody_uses_waits_for_nobody(emulator: Emulator, cuda: Driver) -> None:
    stream, image, unused = cuda.stream(), cuda.device(4), cuda.device(4)
    cuda.fill(image, 1, 4, stream)
    cuda.free(unused)
    assert peek(image, 4) == NEW_DEVICE * 4
    assert emulator.misuses() == []


def test_use_after_free_is_reported(emulator: Emulator, cuda: Driver) -> None:
    stream, image, slot, lent = cuda.stream(), cuda.device(4), cuda.pinned(4), cuda.device_async(4, LEGACY)
    cuda.synchronize()
    cuda.free(image)
    cuda.free_pinned(slot)
    cuda.free_async(lent, stream)
    target = cuda.device(4)
    calls: list[Callable[[], None]] = [
        lambda: cuda.fill(image, 1, 4, stream),
        lambda: cuda.to_device(target, slot, 4, stream),
        lambda: cuda.to_device(lent, Pageable(b"1234").address, 4, stream),
    ]
    for call in calls:
        with pytest.raises(DriverError, match=r": 1$"):
            call()
        assert [misuse.kind for misuse in emulator.take_misuses()] == ["use-after-free"]


def test_an_operation_that_runs_after_a_free_in_stream_order_meets_poison(emulator: Emulator, cuda: Driver) -> None:
    emulator.ignore("race")
    owner, other, kept = cuda.stream(), cuda.stream(), cuda.pinned(4)
    image = cuda.device_async(4, owner)
    cuda.fill(image, 1, 4, owner)
    cuda.to_host(kept, image, 4, other)
    cuda.free_async(image, owner)
    cuda.synchronize_stream(owner)
    cuda.synchronize_stream(other)
    assert peek(kept, 4) == FREED_DEVICE * 4
    assert kinds(emulator) == ["use-after-free"]


def test_a_registered_source_that_was_unmapped_is_reported_and_survived(emulator: Emulator, cuda: Driver) -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    del view
    image, stream = cuda.device(4), cuda.stream()
    cuda.call("cuMemHostRegister_v2", address, mmap.PAGESIZE, 0)
    cuda.to_device(image, address, 4, stream)
    memory.close()
    cuda.synchronize_stream(stream)
    assert kinds(emulator) == ["unmapped"]


@pytest.mark.parametrize("name", ["cuMemFree_v2", "cuMemFreeHost", "cuMemHostUnregister", "cuMemFreeAsync"])
def test_freeing_what_is_not_there_is_reported(emulator: Emulator, cuda: Driver, name: str) -> None:
    stream, image = cuda.stream(), cuda.device(8)
    pointers = [image + 4, Pageable(b"1").address]
    cuda.free(freed := cuda.device(8))
    for pointer in (*pointers, freed):
        assert cuda.code(name, pointer, stream) in (1, 713)
    assert kinds(emulator) == ["invalid-free"] * 3
    assert emulator.live("device") == 1


def test_each_kind_of_memory_has_its_own_end(emulator: Emulator, cuda: Driver) -> None:
    image, slot = cuda.device(8), cuda.pinned(8)
    assert cuda.code("cuMemFree_v2", slot) == 1
    assert cuda.code("cuMemFreeHost", image) == 1
    assert cuda.code("cuMemHostUnregister", slot) == 713
    assert kinds(emulator) == ["invalid-free"] * 3
    assert (emulator.live("device"), emulator.live("pinned")) == (1, 1)


def test_destroyed_handles_are_reported(emulator: Emulator, cuda: Driver) -> None:
    stream, event = cuda.stream(), cuda.event()
    cuda.call("cuStreamDestroy_v2", stream)
    cuda.call("cuEventDestroy_v2", event)
    for name, handle in (
        ("cuStreamSynchronize", stream),
        ("cuStreamDestroy_v2", stream),
        ("cuEventQuery", event),
        ("cuEventDestroy_v2", event),
    ):
        assert cuda.code(name, handle) == INVALID_HANDLE
    assert kinds(emulator) == ["stale-handle"] * 4
    assert (emulator.live("streams"), emulator.live("events")) == (0, 0)


def test_the_cpu_may_not_touch_what_is_pending(emulator: Emulator, cuda: Driver) -> None:
    stream, slot, image, event = cuda.stream(), cuda.pinned(4, fill=1), cuda.device(4), cuda.event()
    cuda.to_device(image, slot, 4, stream)
    cuda.record(event, stream)
    emulator.host_access(slot, 4, writes=False)
    assert emulator.misuses() == []
    emulator.host_access(slot + 3, 1, writes=True)
    emulator.host_access(image, 1, writes=False)
    assert kinds(emulator) == ["host-access"] * 2
    cuda.synchronize_event(event)
    emulator.host_access(slot, 4, writes=True)
    assert len(emulator.misuses()) == 2


def test_a_kind_of_misuse_can_be_left_out(emulator: Emulator, cuda: Driver) -> None:
    emulator.ignore("invalid-free")
    cuda.code("cuMemFree_v2", 8)
    assert emulator.misuses() == []
    emulator.ignore("invalid-free", False)
    cuda.code("cuMemFree_v2", 8)
    assert kinds(emulator) == ["invalid-free"]
    with pytest.raises(ValueError, match="rudeness"):
        emulator.ignore("rudeness")  # type: ignore[arg-type]


def test_reports_are_taken_once_and_say_what_and_where(emulator: Emulator, cuda: Driver) -> None:
    cuda.code("cuMemFree_v2", 0x1234)
    (misuse,) = emulator.take_misuses()
    assert "cuMemFree" in misuse.text
    assert "0x1234" in misuse.text
    assert emulator.take_misuses() == []
    emulator.reset()
    assert emulator.misuses() == []
    cuda.code("cuMemFree_v2", 8)
    assert len(emulator.take_misuses()) == 1
