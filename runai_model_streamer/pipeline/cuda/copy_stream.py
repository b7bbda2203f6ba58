"""The copy stream of a load, and the events that are recorded on it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial

from runai_model_streamer.errors import CudaError
from runai_model_streamer.lifecycle import Stopped
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Copies


class CopyStream:
    """A non-blocking stream. Any thread may queue work on it until it is stopped.

    Raises:
        CudaError: from most methods: a call or a copy failed.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        # Held while work is queued, so that none is queued after `stop`.
        self._queueing = threading.Lock()
        self._stopped = False
        self._events: list[int] = []
        self._spare: list[int] = []
        self._handle: int | None = None
        self.drained = False
        """Whether all that was queued is known to have run."""
        try:
            with driver.current():
                self._handle = driver.create_stream()
        except BaseException:
            with contextlib.suppress(CudaError):
                driver.release(self.ending())
            raise

    @contextlib.contextmanager
    def queue(self) -> Iterator[int]:
        """Yield the stream, in the driver's context, to queue work on. Raise `Stopped` if it has been stopped."""
        with self._queueing:
            if self._stopped or self._handle is None:
                raise Stopped
            with self._driver.current():
                yield self._handle

    def copy(self, copies: Copies, event: int | None, *, on_device: bool = False) -> int:
        """Queue copies from an attached thread, then record the event after them. Return the event.

        It is called for each read, so it has no context manager.

        Args:
            copies: what to copy.
            event: the event to record; None for a new one.
            on_device: they come from the device's own memory.

        Raises:
            Stopped: the stream has been stopped. Nothing was queued.
        """
        with self._queueing:
            handle = self._handle
            if self._stopped or handle is None:
                raise Stopped
            self._driver.copy_to_device(*copies, handle, on_device=on_device)
            if event is None:
                event = self.event()
            self._driver.record(event, handle)
        return event

    def event(self) -> int:
        """Return an unused event. Call it inside `queue`."""
        if self._spare:
            return self._spare.pop()
        event = self._driver.create_event()
        self._events.append(event)
        return event

    def give_back(self, event: int) -> None:
        """Return an event for reuse. Streams still wait for its earlier recording."""
        self._spare.append(event)

    def stop(self) -> bool:
        """Accept no more work. Return whether this was the first call."""
        with self._queueing:
            first = not self._stopped
            self._stopped = True
        return first

    def drain(self) -> None:
        """Wait until all queued work has run."""
        if self._handle is None:
            return
        try:
            self._driver.synchronize_stream(self._handle)
        except CudaError:
            # It may be an earlier call's error, which CUDA reports once. The copies may still be running.
            with contextlib.suppress(CudaError):
                self._driver.synchronize_stream(self._handle)
            raise
        self.drained = True

    def ending(self) -> Iterator[Callable[[], object]]:
        """Yield the actions that free the events and the drained stream; see `CudaDriver.release`."""
        for event in self._events:
            yield partial(self._driver.destroy_event, event)
        handle, self._handle = self._handle, None
        if handle is not None:
            yield partial(self._driver.destroy_stream, handle)
