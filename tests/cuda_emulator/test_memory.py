"""When a copy reads and writes, and what is in memory before and after its life."""

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import (
    BLOCKING,
    FREED_DEVICE,
    FREED_PINNED,
    NEW_DEVICE,
    NEW_PINNED,
    OUT_OF_MEMORY,
    Driver,
    DriverError,
    Pageable,
    kinds,
    peek,
    poke,
)

# Copies


def test_a_pinned_source_is_read_when_the_copy_runs(emulator: Emulator, cuda: Driver) -> None:
    stream, slot, image = cuda.stream(), cuda.pinned(4, fill=1), cuda.device(4)
    cuda.to_device(image, slot, 4, stream)
    poke(slot, b"\2")
    cuda.synchronize_stream(stream)
    assert peek(image, 4) == b"\2\1\1\1"
    assert kinds(emulator) == ["source-changed"]


def test_a_registered_source_is_read_when_the_copy_runs(emulator: Emulator, cuda: Driver) -> None:
    stream, memory, image = cuda.stream(), Pageable(b"\1" * 4), cuda.device(4)
    cuda.call("cuMemHostRegister_v2", memory.address, 4, 0)
    cuda.to_device(image, memory.address, 4, stream)
    poke(memory.address + 3, b"\2")
    cuda.synchronize_stream(stream)
    assert peek(image, 4) == b"\1\1\1\2"
    assert kinds(emulator) == ["source-changed"]


def test_a_pageable_source_is_read_at_the_call(emulator: Emulator, cuda: Driver) -> None:
    stream, memory, image = cuda.stream(), Pageable(b"\1" * 4), cuda.device(4)
    cuda.to_device(image, memory.address, 4, stream)
    poke(memory.address, b"\2")
    assert peek(image, 4) == NEW_DEVICE * 4
    cuda.synchronize_stream(stream)
    assert peek(image, 4) == b"\1" * 4
    assert emulator.misuses() == []


def test_a_source_that_the_device_was_to_write_may_change(emulator: Emulator, cuda: Driver) -> None:
    stream, slot, images = cuda.stream(), cuda.pinned(4, fill=1), [cuda.device(4, fill=2), cuda.device(4)]
    cuda.to_host(slot, images[0], 4, stream)
    cuda.to_device(images[1], slot, 4, stream)
    cuda.synchronize_stream(stream)
    assert peek(images[1], 4) == b"\2" * 4
    assert emulator.misuses() == []


def test_a_copy_into_pageable_memory_is_done_when_the_call_returns(cuda: Driver) -> None:
    stream, memory, image = cuda.stream(), Pageable(b"\1" * 4), cuda.device(4)
    cuda.fill(image, 5, 4, stream)
    cuda.to_host(memory.address, image, 4, stream)
    assert peek(memory.address, 4) == b"\5" * 4


def test_a_copy_into_pinned_memory_is_not_done_when_the_call_returns(cuda: Driver) -> None:
    stream, slot, image = cuda.stream(), cuda.pinned(4), cuda.device(4, fill=5)
    cuda.to_host(slot, image, 4, stream)
    assert peek(slot, 4) == NEW_PINNED * 4
    cuda.synchronize_stream(stream)
    assert peek(slot, 4) == b"\5" * 4


def test_copies_without_a_stream_wait_where_cuda_promises_it(cuda: Driver) -> None:
    slot, memory, image, other = cuda.pinned(1, fill=1), Pageable(b"\2"), cuda.device(1), cuda.device(1)
    cuda.call("cuMemcpyHtoD_v2", image, slot, 1)
    assert peek(image) == b"\1"
    cuda.call("cuMemcpyHtoD_v2", image, memory.address, 1)
    assert peek(image) == b"\1", "staged, not yet there"
    cuda.call("cuMemcpyDtoD_v2", other, image, 1)
    assert peek(other) == NEW_DEVICE
    cuda.call("cuMemcpyDtoH_v2", slot, other, 1)
    assert peek(slot) == b"\2"


def test_a_copy_from_pageable_memory_without_a_stream_waits_for_what_came_before(cuda: Driver) -> None:
    memory, image = Pageable(b"\2"), cuda.device(2)
    cuda.fill(image, 1, 1, cuda.stream(BLOCKING))
    cuda.call("cuMemcpyHtoD_v2", image + 1, memory.address, 1)
    assert peek(image) == b"\1"


def test_cu_memcpy_async_finds_out_where_its_sides_are(emulator: Emulator, cuda: Driver) -> None:
    stream, slot, image, memory = cuda.stream(), cuda.pinned(1, fill=1), cuda.device(1), Pageable(b"\0")
    cuda.call("cuMemcpyAsync", image, slot, 1, stream)
    assert peek(image) == NEW_DEVICE
    cuda.call("cuMemcpyAsync", memory.address, image, 1, stream)
    assert peek(memory.address) == b"\1"
    assert emulator.misuses() == []


def test_a_batch_of_copies_is_copies(cuda: Driver) -> None:
    stream, slot, image = cuda.stream(), cuda.pinned(4), cuda.device(4)
    poke(slot, b"\1\2\3\4")
    targets, sources = (ctypes.c_uint64 * 2)(image + 2, image), (ctypes.c_uint64 * 2)(slot, slot + 3)
    cuda.call("cuMemcpyBatchAsync_v2", targets, sources, (ctypes.c_size_t * 2)(2, 1), 2, None, None, 0, stream)
    assert peek(image, 4) == NEW_DEVICE * 4
    cuda.synchronize_stream(stream)
    assert peek(image, 4) == b"\4" + NEW_DEVICE + b"\1\2"


@pytest.mark.parametrize(("name", "size"), [("cuMemsetD8", 1), ("cuMemsetD16", 2), ("cuMemsetD32", 4)])
def test_fills_repeat_a_value_in_stream_order(cuda: Driver, name: str, size: int) -> None:
    stream, image = cuda.stream(), cuda.device(16)
    value = 0x04030201 & (1 << 8 * size) - 1
    cuda.call(f"{name}Async", image, value, 2, stream)
    cuda.call(f"{name}_v2", image + 8, value, 2)
    assert peek(image, 16) == NEW_DEVICE * 16
    cuda.synchronize()
    done = value.to_bytes(size, "little") * 2
    assert peek(image, 16) == (done + NEW_DEVICE * (8 - len(done))) * 2


def test_copying_nothing_is_nothing(emulator: Emulator, cuda: Driver) -> None:
    cuda.to_device(0, 0, 0, cuda.stream())
    assert emulator.live("operations") == 0


def test_work_is_checked_against_the_ends_of_its_memory(emulator: Emulator, cuda: Driver) -> None:
    stream, slot, image = cuda.stream(), cuda.pinned(8), cuda.device(8)
    calls: list[Callable[[], None]] = [
        lambda: cuda.to_device(image + 1, slot, 8, stream),
        lambda: cuda.to_device(image, slot + 1, 8, stream),
        lambda: cuda.to_device(Pageable(b"12345678").address, slot, 8, stream),
        lambda: cuda.fill(image + 4, 0, 5, stream),
        lambda: cuda.call("cuMemsetD32Async", image + 1, 0, 1, stream),
    ]
    for call in calls:
        with pytest.raises(DriverError, match=r": 1$"):
            call()
        assert [misuse.kind for misuse in emulator.take_misuses()] == ["out-of-bounds"]
    assert emulator.live("operations") == 0


# Memory


def test_memory_is_poison_when_new_and_when_freed(cuda: Driver) -> None:
    device, pinned = cuda.device(100), cuda.pinned(100)
    assert peek(device, 100) == NEW_DEVICE * 100
    assert peek(pinned, 100) == NEW_PINNED * 100
    cuda.free(device)
    cuda.free_pinned(pinned)
    assert peek(device, 100) == FREED_DEVICE * 100
    assert peek(pinned, 100) == FREED_PINNED * 100


def test_freed_addresses_are_not_given_out_again(cuda: Driver) -> None:
    addresses = set()
    for _ in range(100):
        address = cuda.device(1000)
        cuda.free(address)
        addresses.add(address)
    assert len(addresses) == 100


def test_freed_memory_is_kept_up_to_a_bound(cuda: Driver) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    for _ in range(20):
        cuda.free(cuda.device(64 << 20))
    assert resident() - before < 512 << 20


def test_memory_of_a_pool_comes_and_goes_in_stream_order(emulator: Emulator, cuda: Driver) -> None:
    stream = cuda.stream()
    memory = cuda.device_async(4, stream)
    poke(memory, b"\1\1\1\1")
    cuda.synchronize_stream(stream)
    assert peek(memory, 4) == NEW_DEVICE * 4, "it was not there before its place in the stream"
    cuda.fill(memory, 2, 4, stream)
    cuda.free_async(memory, stream)
    assert emulator.live("device") == 1
    cuda.synchronize_stream(stream)
    assert emulator.live("device") == 0
    assert peek(memory, 4) == FREED_DEVICE * 4
    assert emulator.misuses() == []


def test_pool_memory_is_not_ready_for_a_stream_that_does_not_wait(emulator: Emulator, cuda: Driver) -> None:
    owner, other, event = cuda.stream(), cuda.stream(), cuda.event()
    memory = cuda.device_async(4, owner)
    cuda.fill(memory, 1, 4, other)
    assert kinds(emulator) == ["race"]
    emulator.reset()
    memory = cuda.device_async(4, owner)
    cuda.record(event, owner)
    cuda.wait(other, event)
    cuda.fill(memory, 1, 4, other)
    assert emulator.misuses() == []


def test_a_free_in_stream_order_races_with_another_streams_use(emulator: Emulator, cuda: Driver) -> None:
    copy, other, event, slot = cuda.stream(), cuda.stream(), cuda.event(), cuda.pinned(4, fill=1)
    image = cuda.device_async(4, copy)
    cuda.to_device(image, slot, 4, copy)
    cuda.record(event, copy)
    cuda.wait(other, event)
    cuda.fill(image, 0, 4, other)
    cuda.free_async(image, copy)
    assert kinds(emulator) == ["race"]


def test_device_memory_ends(emulator: Emulator, cuda: Driver) -> None:
    emulator.set_device_memory(1000)
    first = cuda.device(600)
    with pytest.raises(DriverError) as error:
        cuda.device(401)
    assert error.value.code == OUT_OF_MEMORY
    assert cuda.code("cuMemAllocAsync", ctypes.byref(ctypes.c_uint64()), 401, cuda.stream()) == OUT_OF_MEMORY
    available, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.call("cuMemGetInfo_v2", ctypes.byref(available), ctypes.byref(total))
    assert (available.value, total.value) == (400, 1000)
    cuda.free(first)
    cuda.device(1000)


def test_memory_is_registered_once(emulator: Emulator, cuda: Driver) -> None:
    memory = Pageable(bytes(8))
    cuda.call("cuMemHostRegister_v2", memory.address, 8, 0)
    for address in (memory.address, memory.address + 4, memory.address - 4):
        assert cuda.code("cuMemHostRegister_v2", address, 8, 0) == 712
    assert emulator.live("registered") == 1


def test_live_memory_and_its_peak_are_counted(emulator: Emulator, cuda: Driver) -> None:
    device, pinned = cuda.device(100), cuda.pinned(10)
    cuda.free(cuda.device(50))
    memory = Pageable(bytes(7))
    cuda.call("cuMemHostRegister_v2", memory.address, 7, 0)
    counts = {what: emulator.live(what) for what in ("device", "device_bytes", "device_bytes_peak", "pinned_bytes")}
    assert counts == {"device": 1, "device_bytes": 100, "device_bytes_peak": 150, "pinned_bytes": 10}
    assert (emulator.live("registered"), emulator.live("registered_bytes")) == (1, 7)
    emulator.reset()
    assert emulator.live("device_bytes_peak") == 100
    cuda.free(device)
    cuda.free_pinned(pinned)
    cuda.call("cuMemHostUnregister", memory.address)
    assert emulator.leaks() == {}


def test_leaks_name_everything_that_is_left(emulator: Emulator, cuda: Driver) -> None:
    stream, image, _ = cuda.stream(), cuda.device(1), cuda.pinned(1)
    memory, pool = Pageable(b"1"), ctypes.c_uint64()
    cuda.call("cuMemHostRegister_v2", memory.address, 1, 0)
    cuda.record(cuda.event(), stream)
    cuda.call("cuMemPoolCreate", ctypes.byref(pool), (ctypes.c_int * 24)(1, 0, 1, 0))
    names = ("device", "pinned", "registered", "streams", "events", "pools", "operations")
    assert emulator.leaks() == dict.fromkeys(names, 1)
    assert emulator.live("contexts") == 1
    cuda.free(image)
    cuda.call("cuMemPoolDestroy", pool)
    assert "pools" not in emulator.leaks()


def test_pointers_know_their_memory(cuda: Driver) -> None:
    image, slot, memory = cuda.device(100), cuda.pinned(100), Pageable(bytes(100))
    base, size, kind = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_uint()
    cuda.call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), image + 99)
    assert (base.value, size.value) == (image, 100)
    for address, expected in ((image + 99, 2), (slot, 1)):
        cuda.call("cuPointerGetAttribute", ctypes.byref(kind), 2, address)
        assert kind.value == expected
    assert cuda.code("cuPointerGetAttribute", ctypes.byref(kind), 2, memory.address) == 1
    values = [ctypes.c_int(9), ctypes.c_int(9)]
    pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(value) for value in values))
    cuda.call("cuPointerGetAttributes", 2, (ctypes.c_int * 2)(2, 9), pointers, memory.address)
    assert [value.value for value in values] == [0, -2]


# Options of the emulator


@pytest.mark.parametrize("waits", [False, True])
def test_page_locking_waits_for_the_device_if_it_is_told_to(emulator: Emulator, cuda: Driver, waits: bool) -> None:
    emulator.set_pinning_waits(waits)
    slot, target, stream = cuda.pinned(4), cuda.device(4), cuda.stream()
    cuda.fill(target, 1, 4, stream)
    cuda.free_pinned(slot)
    assert emulator.live("operations") == (0 if waits else 1)
    cuda.fill(target, 2, 4, stream)
    cuda.pinned(4)
    assert emulator.live("operations") == (0 if waits else 2)
    assert emulator.misuses() == []
