"""The CUDA driver calls that a load makes. A call that fails raises `CudaError` with its name.

They use `cuda.bindings.driver`, which maps the driver's interface one to one. So a test's emulated driver sees the same
calls as a GPU's driver. `cuda.core` lacks some of them (event flags, copies of raw pointers) and has its own errors.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from runai_model_streamer.errors import CudaError, MissingDependencyError, StateError
from runai_model_streamer.installation import install_command

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: the stream and the legacy default stream do not wait for each other."""
_BLOCKING_SYNC: Final = 1
"""CU_EVENT_BLOCKING_SYNC: a thread that waits for the event sleeps, so that reads can use its CPU."""
_NO_TIMING: Final = 2
"""CU_EVENT_DISABLE_TIMING: makes an event cheap."""

_LEGACY: Final = 1
"""CU_STREAM_LEGACY: the default stream. The handle 0 means another stream if cuda-bindings uses per-thread default
streams (CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM)."""

_RELAXED: Final = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED: the thread may make calls that a graph capture in another thread would forbid."""

_OUT_OF_MEMORY: Final = 2
_NOT_SUPPORTED: Final = 801


def driver_api() -> Any:
    """Import and return `cuda.bindings.driver`.

    Raises:
        MissingDependencyError: the package is not installed, or finds no driver.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except (ImportError, RuntimeError) as error:  # RuntimeError: versions that load libcuda at import
        raise MissingDependencyError(
            f"cuda.bindings cannot be imported ({error})",
            remedy=f"{install_command('cuda13')}, or [cuda12] for a torch built for CUDA 12",
            sep=": ",
        ) from error


class CudaDriver:
    """The primary context of one device, shared with torch, and the calls made in it.

    Streams, events and pointers are the driver's handles, as integers. Any thread may call, inside `current`. The calls
    release the GIL.

    Args:
        device: the device's number, as this process sees it.
        api: `cuda.bindings.driver`, or a replacement.

    Raises:
        CudaError: from every method: the call failed, or earlier work on the device did.
    """

    def __init__(self, device: int, api: Any) -> None:
        self.number = device
        self.api = api
        self._of_thread = threading.local()
        self._call("cuInit", 0)
        self._batch = self._batch_of_copies()
        self._device = self._call("cuDeviceGet", device)
        address: bytes = self._call("cuDeviceGetPCIBusId", 16, self._device)
        self.pci_address = address.partition(b"\0")[0].decode()
        """The device's PCI address, such as "0000:C1:00.0"."""
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def _batch_of_copies(self) -> Callable[[Sequence[int], Sequence[int], Sequence[int], int], Any] | None:
        """Return a call that queues several copies at once; None if the driver has none. It returns the error."""
        api = self.api
        if not hasattr(api, "cuMemcpyBatchAsync") or self._call("cuDriverGetVersion") < api.CUDA_VERSION:
            return None
        pointer, attributes = api.CUdeviceptr, api.CUmemcpyAttributes()
        attributes.srcAccessOrder = api.CUmemcpySrcAccessOrder.CU_MEMCPY_SRC_ACCESS_ORDER_STREAM

        def batch(targets: Sequence[int], sources: Sequence[int], sizes: Sequence[int], stream: int) -> Any:
            to, of = [pointer(target) for target in targets], [pointer(source) for source in sources]
            return api.cuMemcpyBatchAsync(to, of, sizes, len(sizes), [attributes], [0], 1, stream)[0]

        return batch

    def _call(self, name: str, *arguments: Any) -> Any:
        results = getattr(self.api, name)(*arguments)
        if results[0]:
            self._fail(name, results[0])
        return results[1] if len(results) > 1 else None

    def _fail(self, name: str, error: Any) -> None:
        code = getattr(error, "name", None) or f"error {int(error)}"
        remedy = ""
        if name in ("cuMemHostAlloc", "cuMemHostRegister") or int(error) == _OUT_OF_MEMORY:
            remedy = "to use less pinned memory, set RUNAI_STREAMER_MEMORY_LIMIT; 0 uses the least"
        raise CudaError(f"{name} failed with {code}", remedy=remedy)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context current in the calling thread, and restore the previous one afterwards."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        except BaseException:
            with contextlib.suppress(CudaError):  # report the first error
                self._call("cuCtxPopCurrent")
            raise
        self._call("cuCtxPopCurrent")

    @contextlib.contextmanager
    def relaxed(self) -> Iterator[None]:
        """Like `current`, for calls that may wait for the device, while another thread captures a CUDA graph."""
        with self.current():
            before = self._exchange_capture_mode(_RELAXED)
            try:
                yield
            finally:
                self._exchange_capture_mode(before)

    def release(self, actions: Iterable[Callable[[], object]]) -> None:
        """Run all actions in the device's context, even if some fail. Then raise the first error."""
        errors: list[Exception] = []
        modes: list[int] = []
        entered = _attempt(partial(self._call, "cuCtxPushCurrent", self._context), errors)
        # Any thread may call this, while another one captures a graph.
        _attempt(lambda: modes.append(self._exchange_capture_mode(_RELAXED)), errors)
        for action in actions:
            _attempt(action, errors)
        for mode in modes:
            _attempt(partial(self._exchange_capture_mode, mode), errors)
        if entered:
            _attempt(partial(self._call, "cuCtxPopCurrent"), errors)
        try:
            if errors:
                raise errors[0]
        finally:
            # Its traceback refers to this frame. The cycle would keep the callers' frames alive until gc runs.
            errors.clear()

    def attach(self) -> bool:
        """Make the context current in the calling thread, one of our readers, for as long as the thread lives.

        It also relaxes the thread's capture mode. Per call, that and `current` would be five calls for each read.

        Returns:
            Whether this was the thread's first call.
        """
        if getattr(self._of_thread, "attached", False):
            return False
        self.relax_capture()
        self._call("cuCtxSetCurrent", self._context)
        self._of_thread.attached = True
        return True

    def relax_capture(self) -> None:
        """Let the calling thread, one of our readers, continue while another thread captures a CUDA graph.

        By default a capture forbids every thread the calls that may wait for the device, and such a call breaks it.
        """
        if not getattr(self._of_thread, "relaxed", False):
            self._exchange_capture_mode(_RELAXED)
            self._of_thread.relaxed = True

    def _exchange_capture_mode(self, mode: int) -> int:
        """Set the calling thread's capture mode, and return the previous one."""
        return int(self._call("cuThreadExchangeStreamCaptureMode", self.api.CUstreamCaptureMode(mode)))

    def _refuse_capture(self, stream: int) -> None:
        if int(self._call("cuStreamIsCapturing", stream)):
            raise StateError(
                "a CUDA graph is being captured on the stream that tensors are loaded for",
                remedy="take tensors before the capture or after it, or on another stream",
            )

    def create_stream(self) -> int:
        """Create a stream that waits for other streams only on request, and return its handle."""
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Destroy the stream. Queued work still runs."""
        self._call("cuStreamDestroy", stream)

    def synchronize_stream(self, stream: int) -> None:
        """Wait until all queued work has run."""
        self._call("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        """Create an event and return its handle. Until it is recorded, it counts as happened."""
        return int(self._call("cuEventCreate", _BLOCKING_SYNC | _NO_TIMING))

    def destroy_event(self, event: int) -> None:
        """Destroy the event. Streams that wait for it still do."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Record the event. It happens when all work queued in the stream so far has run."""
        self._call("cuEventRecord", event, stream)

    def record_for_caller(self, event: int, stream: int) -> None:
        """Like `record`, on a stream of the caller's. Raise `StateError` if a graph is being captured on it."""
        self._refuse_capture(stream or _LEGACY)
        self.record(event, stream or _LEGACY)

    def make_caller_wait(self, stream: int, event: int) -> None:
        """Like `wait`, on a stream of the caller's. Raise `StateError` if a graph is being captured on it."""
        self._refuse_capture(stream or _LEGACY)
        self.wait(stream or _LEGACY, event)

    def wait(self, stream: int, event: int) -> None:
        """Make later work in the stream wait for the event's last recording."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        """Wait until the event has happened."""
        self._call("cuEventSynchronize", event)

    def page_lock(self, address: int, size: int) -> None:
        """Page-lock host memory, whole pages, for this device."""
        self._call("cuMemHostRegister", address, size, 0)

    def unlock_pages(self, address: int) -> None:
        """Undo `page_lock`. No copy may still use the memory."""
        self._call("cuMemHostUnregister", address)

    def allocate_pinned(self, size: int) -> int:
        """Allocate `size` bytes of page-locked, page-aligned host memory, and return the address."""
        return int(self._call("cuMemHostAlloc", size, 0))

    def free_pinned(self, address: int) -> None:
        """Free pinned memory. No read, write or copy may still use it."""
        self._call("cuMemFreeHost", address)

    def allocate(self, size: int) -> int:
        """Allocate device memory that torch does not know of, and return its address."""
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        """Free memory from `allocate`. This waits for copies that use it."""
        self._call("cuMemFree", address)

    def copy_to_device(
        self,
        targets: Sequence[int],
        sources: Sequence[int],
        sizes: Sequence[int],
        stream: int,
        *,
        on_device: bool = False,
    ) -> None:
        """Queue copies from pinned memory, or within the device. They read it when they run, in any order among them.

        Several are one call, where the driver has it: from CUDA 12.8 on.
        """
        if self._batch is not None and len(sizes) > 1:
            error = self._batch(targets, sources, sizes, stream)
            if not int(error):
                return
            if int(error) != _NOT_SUPPORTED:
                self._fail("cuMemcpyBatchAsync", error)
            self._batch = None
        copy = "cuMemcpyDtoDAsync" if on_device else "cuMemcpyHtoDAsync"
        for target, source, size in zip(targets, sources, sizes, strict=True):
            self._call(copy, target, source, size, stream)

    def close(self) -> None:
        """Release the context. Idempotent."""
        context, self._context = self._context, None
        if context is not None:
            self._call("cuDevicePrimaryCtxRelease", self._device)


def _attempt(action: Callable[[], object], errors: list[Exception]) -> bool:
    try:
        action()
    except Exception as error:
        errors.append(error)
        return False
    return True
