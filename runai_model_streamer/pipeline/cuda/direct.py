"""Reads files straight into device memory, by GPUDirect Storage.

cuFile reads directly only into memory that it has pinned, which takes milliseconds, and only whole pages. Tensors begin
anywhere. So a read lands in a slot of device memory that is pinned once for the load, and the copy stream copies the
tensors from there, 30 times as fast as a bus brings bytes. It needs nothing of the caller's stream: the copy stream has
been told to wait for it when the tensors were allocated.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Final, Protocol

from runai_model_streamer.errors import CudaError
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.slots import Slot, SlotMemory, SlotRing
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.pipeline.plan.groups import Step
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_call
from runai_model_streamer.ranges import round_up

_NO_HOST_MEMORY: Final = memoryview(b"")

_GPU_PAGE: Final = 64 << 10
"""Bytes; device memory is pinned in multiples of it. CUDA promises less for the start of an allocation."""


class DeviceFile(Protocol):
    """A file that can be read straight into device memory; see `io.files.gds.GdsFile`."""

    def read_into_device(self, offset: int, length: int, base: int, at: int) -> None:
        """Read into registered device memory that begins at `base`, `at` bytes behind it, and return when all is there.

        No work may use the memory. Up to the next page behind the bytes it may be written to.
        """
        ...

    def close(self) -> None:
        """Close the file. No read may be in flight. Idempotent."""
        ...


class Registration(Protocol):
    """Device memory that is pinned for direct reads; see `io.files.cufile.RegisteredMemory`."""

    def close(self) -> None:
        """Unpin it. No read may be in flight."""
        ...


Register = Callable[[int, int], Registration]
"""Pins device memory, given its address and size. Its context is current."""


class DirectReads:
    """The files that one load reads directly, and the device memory for their slots. Owns both.

    Args:
        driver: the device's driver, for this alone; closed at the end.
        files: index of a file in the plan -> the file.
        staging: size and number of the slots.
        lifecycle: the load's.
        register: pins the memory.

    Raises:
        CudaError: the device has no memory for the slots.
        GdsUnavailableError: cuFile cannot pin it.
    """

    def __init__(
        self,
        driver: CudaDriver,
        files: Mapping[int, DeviceFile],
        staging: Staging,
        lifecycle: Lifecycle,
        register: Register,
    ) -> None:
        self._driver = driver
        self._files = dict(files)
        self._staging = staging
        self._allocated = self._base = 0
        self._registration: Registration | None = None
        try:
            with driver.relaxed():
                self._allocated = driver.allocate(staging.bytes + _GPU_PAGE)
                self._base = round_up(self._allocated, _GPU_PAGE)
                self._registration = register(self._base, staging.bytes)
        except BaseException:
            with contextlib.suppress(CudaError):  # report the first error
                self._end()
            raise
        ready: Future[None] = Future()
        ready.set_result(None)
        self.ring = SlotRing(driver, lifecycle, SlotMemory(staging, staging.bytes, ready, self._cut, self._end))
        """Slots of device memory. The end of the ring is that of the files and of the memory."""

    def _cut(self, pieces: range) -> Slot:
        return Slot(self._base + self._staging.size * pieces.start, _NO_HOST_MEMORY, pieces)

    def has(self, file: int) -> bool:
        """Return whether this file of the plan is read directly."""
        return file in self._files

    def read(self, step: Step, slot: Slot) -> Reading:
        """Read a step's bytes into a slot of `ring`, from a thread that is attached to the device."""
        file = self._files[step.file]

        def read() -> Origin:
            file.read_into_device(step.offset, step.length, self._base, slot.address - self._base)
            return Origin.DISK

        with nvtx_range("read"):
            return timed_call(read)

    def _end(self, *, intact: bool = False) -> None:  # noqa: ARG002 - the driver waits for copies before it frees memory
        self._driver.release(self._ending())

    def _ending(self) -> Iterator[Callable[[], object]]:
        registration, self._registration = self._registration, None
        if registration is not None:
            yield registration.close
        allocated, self._allocated = self._allocated, 0
        if allocated:
            yield lambda: self._driver.free(allocated)
        while self._files:
            yield self._files.popitem()[1].close
        yield self._driver.close
