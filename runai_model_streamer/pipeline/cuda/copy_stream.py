"""The copy stream of a load, and the events that are recorded on it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial

from runai_model_streamer.errors import CudaError
from runai_model_streamer.lifecycle import Stopped
from runai_model_streamer.pipeline.cuda.driver import CudaDriver


class CopyStream:
    """A non-blocking stream, on which work may be queued from any thread until it is stopped.

    Raises:
        CudaError: from most methods: a call failed, or a copy did.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        # Held while work is queued, so that none is behind `stop`.
        self._queueing = threading.Lock()
        self._stopped = False
        self._events: list[int] = []
        self._spare: list[int] = []
        self._handle: int | None = None
        try:
            with driver.current():
                self._handle = driver.create_stream()
        except BaseException:
            with contextlib.suppress(CudaError):
                driver.release(self.ending())
            raise

    @contextlib.contextmanager
    def queue(self) -> Iterator[int]:
        """The stream, in the driver's context, for work to be queued there. Raises `Stopped` when it is too late."""
        with self._queueing:
            if self._stopped or self._handle is None:
                raise Stopped
            with self._driver.current():
                yield self._handle

    def event(self) -> int:
        """An event that nobody uses. Inside `queue`."""
        if self._spare:
            return self._spare.pop()
        event = self._driver.create_event()
        self._events.append(event)
        return event

    def give_back(self, event: int) -> None:
        """The event may be recorded for something else: streams go on waiting for what it was recorded behind."""
        self._spare.append(event)

    def stop(self) -> bool:
        """Let no more work be queued. Whether this was the first call."""
        with self._queueing:
            first = not self._stopped
            self._stopped = True
        return first

    def drain(self) -> None:
        """Return when all that is queued has run."""
        if self._handle is None:
            return
        try:
            self._driver.synchronize_stream(self._handle)
        except CudaError:
            # Perhaps the error of some call before, which is told once: the copies may still be running.
            with contextlib.suppress(CudaError):
                self._driver.synchronize_stream(self._handle)
            raise

    def ending(self) -> Iterator[Callable[[], object]]:
        """What frees the events and the stream, when it has been stopped and drained; see `CudaDriver.release`."""
        for event in self._events:
            yield partial(self._driver.destroy_event, event)
        handle, self._handle = self._handle, None
        if handle is not None:
            yield partial(self._driver.destroy_stream, handle)
