"""Virtual memory: addresses, memory, and mappings of the one into the other."""

import ctypes
import struct

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import NEW_DEVICE, OUT_OF_MEMORY, Driver, DriverError, kinds, peek

PIECE = 2 << 20
ON_THE_DEVICE = struct.pack("<iiiiQ8x", 1, 0, 1, 0, 0)
"""CUmemAllocationProp: pinned memory of device 0."""


class Virtual:
    """Calls on virtual memory."""

    def __init__(self, cuda: Driver) -> None:
        self._cuda = cuda

    def reserve(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._cuda.call("cuMemAddressReserve", ctypes.byref(address), size, 0, 0, 0)
        return address.value

    def create(self, size: int) -> int:
        handle = ctypes.c_uint64()
        self._cuda.call("cuMemCreate", ctypes.byref(handle), size, ON_THE_DEVICE, 0)
        return handle.value

    def map(self, address: int, handle: int) -> None:
        self._cuda.call("cuMemMap", address, PIECE, 0, handle, 0)
        self._cuda.call("cuMemSetAccess", address, PIECE, None, 0)

    def unmap(self, address: int, size: int) -> None:
        self._cuda.call("cuMemUnmap", address, size)

    def release(self, handle: int) -> None:
        self._cuda.call("cuMemRelease", handle)


@pytest.fixture
def virtual(cuda: Driver) -> Virtual:
    return Virtual(cuda)


def free_bytes(cuda: Driver) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def test_a_copy_may_cross_from_one_mapping_into_the_next(emulator: Emulator, cuda: Driver, virtual: Virtual) -> None:
    address = virtual.reserve(2 * PIECE)
    for index in range(2):
        virtual.map(address + index * PIECE, virtual.create(PIECE))
    assert peek(address + 2 * PIECE - 1) == NEW_DEVICE
    stream, slot = cuda.stream(), cuda.pinned(8, fill=1)
    cuda.to_device(address + PIECE - 4, slot, 8, stream)
    cuda.fill(address + PIECE - 2, 2, 4, stream)
    cuda.synchronize()
    assert peek(address + PIECE - 4, 8) == b"\1\1\2\2\2\2\1\1"
    assert kinds(emulator) == []


def test_past_the_last_mapping_there_is_no_memory(emulator: Emulator, cuda: Driver, virtual: Virtual) -> None:
    address = virtual.reserve(2 * PIECE)
    virtual.map(address, virtual.create(PIECE))
    with pytest.raises(DriverError):
        cuda.to_device(address + PIECE - 4, cuda.pinned(8, fill=1), 8, cuda.stream())
    assert kinds(emulator) == ["out-of-bounds"]


def test_memory_lasts_as_long_as_its_handle_or_a_mapping(cuda: Driver, virtual: Virtual) -> None:
    address, handle = virtual.reserve(PIECE), virtual.create(PIECE)
    assert free_bytes(cuda) == PIECE
    virtual.map(address, handle)
    virtual.release(handle)
    assert free_bytes(cuda) == PIECE
    virtual.unmap(address, PIECE)
    assert free_bytes(cuda) == 0


def test_a_full_device_has_no_memory_to_map(emulator: Emulator, cuda: Driver, virtual: Virtual) -> None:
    emulator.set_device_memory(PIECE)
    cuda.device(1)
    with pytest.raises(DriverError) as full:
        virtual.create(PIECE)
    assert full.value.code == OUT_OF_MEMORY


def test_unmapping_memory_that_is_in_use_is_a_misuse(emulator: Emulator, cuda: Driver, virtual: Virtual) -> None:
    address = virtual.reserve(PIECE)
    virtual.map(address, virtual.create(PIECE))
    cuda.fill(address, 1, 4, cuda.stream())
    virtual.unmap(address, PIECE)
    assert kinds(emulator) == ["freed-in-use"]
