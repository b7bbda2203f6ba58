"""Total time spent waiting; readable from any thread."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class WaitClock:
    """Total seconds that threads have waited, one at a time. The clock runs only during a wait.

    A second thread reads it twice, and the difference is the part of its own time that fell within waits.
    """

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # One tuple, so that another thread reads both values of the same moment.
        self._state: tuple[float, float | None] = (0.0, None)  # seconds before the current wait, and its start

    def start(self, now: float) -> None:
        """Start a wait at `now`."""
        self._state = self._state[0], now

    def stop(self, now: float) -> None:
        """End the wait at `now`."""
        self._state = self.at(now), None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as a wait."""
        self.start(time.perf_counter())
        try:
            yield
        finally:
            self.stop(time.perf_counter())

    def at(self, now: float) -> float:
        """Return the seconds waited until `now`."""
        waited, since = self._state
        return waited if since is None or now < since else waited + now - since
