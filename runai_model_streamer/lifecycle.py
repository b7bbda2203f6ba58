"""The state of one load: running, then failed or closed. The first error wins and wakes every waiter."""

import threading
import traceback
from collections.abc import Callable
from enum import Enum, auto

from runai_model_streamer.threads.signals import wait_for_change


class State(Enum):
    """Where a load is."""

    RUNNING = auto()
    FAILED = auto()
    CLOSED = auto()


class Stopped(Exception):  # noqa: N818 - control flow inside the pipeline, never raised to callers
    """Raised by a wait inside the pipeline when the load has failed or was closed meanwhile."""


class Lifecycle:
    """One state, one condition for the consumer's waits, and hooks that wake what waits elsewhere."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._state = State.RUNNING
        self._error: BaseException | None = None
        self._wakers: list[Callable[[], None]] = []
        self.running = True
        """Whether readers should go on. An attribute, since it is read for every tensor."""

    def forget_error(self) -> BaseException | None:
        """Return the first error of a load that failed, once: a reference kept here would be a cycle."""
        error, self._error = self._error, None
        if error is not None:
            # The frames of the failed reader would keep its memory as long as the error lives.
            link: BaseException | None = error
            while link is not None:
                traceback.clear_frames(link.__traceback__)
                link = link.__cause__ or link.__context__
        return error

    def check(self) -> None:
        """Raise `Stopped` unless running."""
        if self._state is not State.RUNNING:
            raise Stopped

    def on_stop(self, waker: Callable[[], None]) -> None:
        """Call `waker`, from any thread, when the state leaves RUNNING."""
        self._wakers.append(waker)

    def fail(self, error: BaseException) -> None:
        """End the load with this error, unless it has ended, and wake all waiters."""
        self._stop(State.FAILED, error)

    def close(self) -> None:
        """End the load, unless it has ended, and wake all waiters."""
        self._stop(State.CLOSED, None)

    def _stop(self, state: State, error: BaseException | None) -> None:
        with self._changed:
            if self._state is not State.RUNNING:
                return
            self._state, self._error = state, error
            self.running = False
            self._changed.notify_all()
        for wake in self._wakers:
            wake()
        self._wakers.clear()

    def notify(self) -> None:
        """Wake `wait_for`, whose condition may hold now."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition()` holds.

        Raises:
            Stopped: the load has failed or been closed, whether or not the condition holds.
        """
        with self._changed:
            while self._state is State.RUNNING and not condition():
                wait_for_change(self._changed)
        self.check()
