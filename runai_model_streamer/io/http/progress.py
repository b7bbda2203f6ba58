"""Cuts requests that stall or drip. One thread watches all of them, so that no request takes the GIL for it."""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from runai_model_streamer.io.http.failures import Failure
from runai_model_streamer.io.http.transport import MIN_SPEED
from runai_model_streamer.threads.forks import OwnProcess

_LONGEST_TICK: Final = 1.0
"""Maximum seconds between two checks."""
_TICKS: Final = 4
"""Minimum checks in each timeout."""


class Progress:
    """The time limits of one request.

    Args:
        timeout: seconds until the answer must begin, and later the longest pause between two pieces of it.
        clock: returns seconds that never run backwards.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._answer_due = clock() + timeout
        self._moved = 0
        self._moved_at = 0.0
        self._window_end: float | None = None
        self._window_start = 0

    def connecting(self) -> None:
        """Allow more time: a connection is made first, with a timeout of its own."""
        self._answer_due += self._timeout

    def check(self, *, answered: bool, landed: int) -> Failure | None:
        """Return why the request must end now; None if it may go on. `landed` counts bytes of the body."""
        now = self._clock()
        if not answered:
            return Failure.STALLED if now >= self._answer_due else None
        if self._window_end is None or landed != self._moved:
            self._moved, self._moved_at = landed, now
        elif now - self._moved_at >= self._timeout:
            return Failure.STALLED
        if self._window_end is None or now >= self._window_end:
            if self._window_end is not None and landed - self._window_start < MIN_SPEED * self._timeout:
                return Failure.SLOW
            self._window_end, self._window_start = now + self._timeout, landed
        return None


class Watched(Protocol):
    """A request in flight."""

    def check(self) -> None:
        """Cut the request if its time is up."""
        ...


class Watcher:
    """Checks the requests in flight regularly. Its thread lives while there are any, and a moment longer."""

    def __init__(self, timeout: float) -> None:
        self._tick = min(_LONGEST_TICK, timeout / _TICKS)
        self._lock = threading.Lock()
        self._active: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._process = OwnProcess()

    def watch(self, request: Watched) -> None:
        """Check this request from now on, until `forget`."""
        with self._lock:
            self._active.add(request)
            # After a fork the thread is the parent's.
            if self._thread is None or self._process.forked:
                self._process = OwnProcess()
                self._wake.clear()
                thread = threading.Thread(target=self._run, name="runai-curl-watch", daemon=True)
                thread.start()
                self._thread = thread

    def forget(self, request: Watched) -> None:
        """Check it no more."""
        with self._lock:
            self._active.discard(request)

    def close(self) -> None:
        """End the thread: now, or with the last request. Idempotent."""
        self._wake.set()
        with self._lock:
            thread = self._thread if not self._active else None
        if thread is not None and thread.is_alive():
            thread.join()

    def _run(self) -> None:
        while True:
            ending = self._wake.wait(self._tick)
            with self._lock:
                active = list(self._active)
                if not active:
                    self._thread = None
                    return
            for request in active:
                request.check()
            if ending:
                time.sleep(self._tick)
