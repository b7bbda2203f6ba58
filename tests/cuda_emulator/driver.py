"""The emulated driver through ctypes, for tests of the emulator.

Handles and addresses are ints, and every call is checked.
"""

import ctypes
from collections.abc import Callable
from typing import Final

from tests.cuda_emulator import Emulator

BLOCKING: Final = 0
NON_BLOCKING: Final = 1
DISABLE_TIMING: Final = 2
LEGACY: Final = 0
PER_THREAD: Final = 2

OUT_OF_MEMORY: Final = 2
NO_CONTEXT: Final = 201
INVALID_HANDLE: Final = 400
NOT_READY: Final = 600
ILLEGAL_ADDRESS: Final = 700

NEW_DEVICE: Final = b"\xa5"
FREED_DEVICE: Final = b"\xdf"
NEW_PINNED: Final = b"\x5a"
FREED_PINNED: Final = b"\xf5"


class DriverError(Exception):
    """A call returned something else than CUDA_SUCCESS."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call}: {code}")
        self.code = code


class Driver:
    """Driver calls of an emulator, with a device's primary context current in the thread that makes this."""

    def __init__(self, emulator: Emulator, device: int = 0) -> None:
        self.emulator = emulator
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.context = int(context.value or 0)
        self.make_current()

    def call(self, name: str, *arguments: object) -> None:
        """Raises DriverError. Ints are passed as 64 bits."""
        code = self.code(name, *arguments)
        if code:
            raise DriverError(name, code)

    def code(self, name: str, *arguments: object) -> int:
        """What a call returns."""
        wide = [ctypes.c_uint64(argument) if isinstance(argument, int) else argument for argument in arguments]
        code: int = getattr(self.emulator.library, name)(*wide)
        return code

    def _made(self, name: str, *arguments: object) -> int:
        value = ctypes.c_uint64()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def make_current(self) -> None:
        self.call("cuCtxSetCurrent", self.context)

    def synchronize(self) -> None:
        self.call("cuCtxSynchronize")

    # Memory

    def device(self, size: int, fill: int | None = None) -> int:
        """Device memory, its poison or, where the test does not care about CUDA's order, written past the driver."""
        address = self._made("cuMemAlloc_v2", size)
        if fill is not None:
            poke(address, bytes([fill]) * size)
        return address

    def pinned(self, size: int, fill: int | None = None) -> int:
        address = self._made("cuMemHostAlloc", size, 0)
        if fill is not None:
            poke(address, bytes([fill]) * size)
        return address

    def device_async(self, size: int, stream: int) -> int:
        return self._made("cuMemAllocAsync", size, stream)

    def free(self, address: int) -> None:
        self.call("cuMemFree_v2", address)

    def free_async(self, address: int, stream: int) -> None:
        self.call("cuMemFreeAsync", address, stream)

    def free_pinned(self, address: int) -> None:
        self.call("cuMemFreeHost", address)

    # Streams and events

    def stream(self, flags: int = NON_BLOCKING) -> int:
        return self._made("cuStreamCreate", flags)

    def event(self, flags: int = 0) -> int:
        return self._made("cuEventCreate", flags)

    def record(self, event: int, stream: int) -> None:
        self.call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self.call("cuStreamWaitEvent", stream, event, 0)

    def synchronize_stream(self, stream: int) -> None:
        self.call("cuStreamSynchronize", stream)

    def synchronize_event(self, event: int) -> None:
        self.call("cuEventSynchronize", event)

    # Work

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self.call("cuMemcpyHtoDAsync_v2", target, source, size, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self.call("cuMemcpyDtoHAsync_v2", target, source, size, stream)

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self.call("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def fill(self, target: int, value: int, size: int, stream: int) -> None:
        self.call("cuMemsetD8Async", target, value, size, stream)

    def found(self, name: str, version: int = 13000, flags: int = 0) -> int:
        """The address of a driver function, or 0, as libraries look it up."""
        address = ctypes.c_void_p()
        self.code("cuGetProcAddress_v2", name.encode(), ctypes.byref(address), version, flags, None)
        return int(address.value or 0)


def peek(address: int, size: int = 1) -> bytes:
    """The bytes at an address of any kind: device memory is host memory here. Nothing is run or checked."""
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes) -> None:
    """Writes as the CPU does, behind the driver's back."""
    ctypes.memmove(address, data, len(data))


class Pageable:
    """Ordinary memory, that CUDA knows nothing of."""

    def __init__(self, data: bytes) -> None:
        self._bytes = ctypes.create_string_buffer(data, len(data))
        self.address = ctypes.addressof(self._bytes)


def host_function(function: Callable[[], None]) -> object:
    """For cuLaunchHostFunc; to be kept as long as the driver may call it."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())


def stream_callback(function: Callable[[int, int], None]) -> object:
    """For cuStreamAddCallback: takes the code and the argument. To be kept as long as the driver may call it."""
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    return prototype(lambda _, code, argument: function(code, argument))


def kinds(emulator: Emulator) -> list[str]:
    """What kinds of misuse were reported, in order."""
    return [misuse.kind for misuse in emulator.misuses()]
