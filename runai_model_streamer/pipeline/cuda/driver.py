"""The calls of the CUDA driver that a load makes, each of which names itself in the error that it ends in.

Through `cuda.bindings.driver`, which is the driver's own interface one to one: what stands here is what the driver
sees, so what a test's emulated driver sees is what a GPU would. `cuda.core` has no name for some of it (the flags of
an event, a copy of raw pointers) and turns errors into its own.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from runai_model_streamer.errors import CudaError, MissingDependencyError, StateError
from runai_model_streamer.installation import install_command

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the legacy default stream, nor that for it."""
_BLOCKING_SYNC: Final = 1
"""CU_EVENT_BLOCKING_SYNC: a thread that waits for the event sleeps, and leaves its CPU to reads."""
_NO_TIMING: Final = 2
"""CU_EVENT_DISABLE_TIMING: what makes an event cheap."""

_RELAXED: Final = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED: the thread may make calls that a graph capture elsewhere forbids in all others."""

_NOT_READY: Final = 600
_OUT_OF_MEMORY: Final = 2


def driver_api() -> Any:
    """`cuda.bindings.driver`, imported when it is needed.

    Raises:
        MissingDependencyError: the package is not installed, or finds no driver.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a version that looks for libcuda at once
        raise MissingDependencyError(
            f"cuda.bindings cannot be imported ({error})",
            remedy=f"{install_command('cuda13')}, or [cuda12] beside a torch built for CUDA 12",
            sep=": ",
        ) from error


class CudaDriver:
    """One device's primary context, which is torch's too, and the calls made in it.

    Streams, events and pointers are the driver's handles as integers. Calls may come from any thread, inside
    `current`, and leave the GIL to others while the driver works.

    Args:
        device: the device's number, as this process sees it.
        api: `cuda.bindings.driver`, or what stands in for it.

    Raises:
        CudaError: from every method: the call failed, or the device did in work that was begun before.
    """

    def __init__(self, device: int, api: Any) -> None:
        self._api = api
        self._of_thread = threading.local()
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._api, name)(*arguments)
        if int(error):
            self._fail(name, error)
        return values[0] if values else None

    def _fail(self, name: str, error: Any) -> None:
        code = getattr(error, "name", None) or f"error {int(error)}"
        remedy = ""
        if name == "cuMemHostAlloc" or int(error) == _OUT_OF_MEMORY:
            remedy = "for less pinned memory set RUNAI_STREAMER_MEMORY_LIMIT, to 0 for the least"
        raise CudaError(f"{name} failed with {code}", remedy=remedy)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The device's context is the calling thread's, whose own comes back afterwards."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        except BaseException:
            with contextlib.suppress(CudaError):  # the first error is the one to tell
                self._call("cuCtxPopCurrent")
            raise
        self._call("cuCtxPopCurrent")

    def release(self, actions: Iterable[Callable[[], object]]) -> None:
        """Do each of them, whatever becomes of the others, in the device's context; then raise the first error."""
        errors: list[Exception] = []
        modes: list[int] = []
        entered = _attempt(partial(self._call, "cuCtxPushCurrent", self._context), errors)
        # The thread may be any, and a graph be captured in another.
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
            # Its traceback leads here: a cycle would keep all that the caller's frames hold until gc runs.
            errors.clear()

    def relax_capture(self) -> None:
        """Let the calling thread, a reader of ours, go on while a CUDA graph is captured elsewhere in the process.

        By default such a capture forbids calls that may wait for the device in every thread, and is broken by them.
        """
        if not getattr(self._of_thread, "relaxed", False):
            self._exchange_capture_mode(_RELAXED)
            self._of_thread.relaxed = True

    def _exchange_capture_mode(self, mode: int) -> int:
        """Set that of the calling thread; the one before."""
        return int(self._call("cuThreadExchangeStreamCaptureMode", self._api.CUstreamCaptureMode(mode)))

    def _refuse_capture(self, stream: int) -> None:
        if int(self._call("cuStreamIsCapturing", stream)):
            raise StateError(
                "a CUDA graph is being captured on the stream that tensors are loaded for",
                remedy="take tensors before the capture or after it, or on another stream",
            )

    def create_stream(self) -> int:
        """A stream that waits for no other but where it is told to."""
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """What is queued still runs."""
        self._call("cuStreamDestroy", stream)

    def synchronize_stream(self, stream: int) -> None:
        """Return when all that is queued has run."""
        self._call("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        """An event that nothing has been recorded in; such a one has happened."""
        return int(self._call("cuEventCreate", _BLOCKING_SYNC | _NO_TIMING))

    def destroy_event(self, event: int) -> None:
        """Streams that wait for it go on to do so."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is queued in the stream now has run."""
        self._call("cuEventRecord", event, stream)

    def record_for_caller(self, event: int, stream: int) -> None:
        """Like `record`, on a stream of the caller's. Raises `StateError` where that captures a graph."""
        self._refuse_capture(stream)
        self.record(event, stream)

    def make_caller_wait(self, stream: int, event: int) -> None:
        """Like `wait`, on a stream of the caller's. Raises `StateError` where that captures a graph."""
        self._refuse_capture(stream)
        self.wait(stream, event)

    def wait(self, stream: int, event: int) -> None:
        """What is queued in the stream from now on runs after what the event was last recorded behind."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def happened(self, event: int) -> bool:
        """Whether the event has."""
        error = self._api.cuEventQuery(event)[0]
        if int(error) not in (0, _NOT_READY):
            self._fail("cuEventQuery", error)
        return not int(error)

    def synchronize_event(self, event: int) -> None:
        """Return when the event has happened."""
        self._call("cuEventSynchronize", event)

    def allocate_pinned(self, size: int) -> int:
        """Page-locked, page-aligned host memory of `size` bytes: its address."""
        return int(self._call("cuMemHostAlloc", size, 0))

    def free_pinned(self, address: int) -> None:
        """Nothing may read from or write to it any more."""
        self._call("cuMemFreeHost", address)

    def copy_to_device(self, pointer: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from pinned memory, which is read when the copy runs."""
        self._call("cuMemcpyHtoDAsync", pointer, address, size, stream)

    def close(self) -> None:
        """Give the context back. Idempotent."""
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
