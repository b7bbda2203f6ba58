"""For how long something has been waited for, as other threads may ask at any moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Timer(Protocol):
    """What times a load; the module `time`. Seconds, each from any moment on."""

    def perf_counter(self) -> float:
        """Wall-clock time."""
        ...

    def thread_time(self) -> float:
        """CPU time of this thread."""
        ...

    def process_time(self) -> float:
        """CPU time of this process."""
        ...


class WaitClock:
    """Seconds that one thread at a time has waited, in all: a clock that stands still while none does.

    The time that another thread spent within such waits is the difference of two readings of its own.
    """

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # One value, so that a thread that looks meanwhile sees both as of the same moment.
        self._state: tuple[float, float | None] = (0.0, None)  # seconds before the current wait, and its start

    def start(self, now: float) -> None:
        """A wait begins."""
        self._state = self._state[0], now

    def stop(self, now: float) -> None:
        """It has ended."""
        self._state = self.at(now), None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait, which the block is."""
        self.start(time.perf_counter())
        try:
            yield
        finally:
            self.stop(time.perf_counter())

    def at(self, now: float) -> float:
        """Seconds waited until `now`."""
        waited, since = self._state
        return waited if since is None or now < since else waited + now - since
