"""Limits the rate of requests to a store that refuses too many.

Fewer connections alone would not help: on a fast network even a few are too many. So once a store refuses several
requests (503 SlowDown, 429), their rate is limited to a little less than the store has just answered. The limit grows,
slowly at first and then faster, and falls again with the next refusal. So few requests are refused, and a limit that
was too low does not last.

A store may refuse for other reasons. If it still refuses a lot after a while, or if a limit that fell by half changes
nothing, the limit is lifted for good.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

EASED: Final = 0.9
"""The new limit after a refusal, as a fraction of the rate of answers."""

GROWTH: Final = 0.02
"""Growth of the limit in the first second, as a fraction. It doubles with each second, up to `MAX_GROWTH`."""

MAX_GROWTH: Final = 0.5
"""Maximum growth of the limit in a second, as a fraction."""

MEASURED: Final = 2.0
"""Seconds over which answers and refusals are counted."""

FEWEST: Final = 3
"""Minimum refusals in that time before a limit is set."""

SHARE: Final = 0.05
"""Minimum fraction of requests refused before a limit is set."""

ANSWERS: Final = 10
"""Minimum answers in that time from which a rate is computed."""

SETTLED: Final = 4.0
"""Seconds after the first limit by which few requests should still be refused."""

FUTILE: Final = 0.2
"""Fraction of requests refused after that time at which the limit is lifted."""

MIN_SPAN: Final = 0.05
"""Minimum seconds from which a rate is computed."""

GRACE: Final = 0.5
"""Seconds after a change of the limit in which refusals still concern earlier requests."""


class RequestRate:
    """Paces requests to one store. Thread safe.

    Args:
        clock: returns seconds from an arbitrary moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: deque[float] = deque()
        self._refusals: deque[float] = deque()
        self._next = 0.0  # when the next request may be made
        self._first = self._set = 0.0  # when the limit was first set, and last
        self._grown = 0.0  # when it last grew
        self._settled = 0.0  # the limit after `SETTLED` seconds
        self._lifted = False
        self.limit: float | None = None
        """Maximum requests per second; None for no limit."""
        self.refusals = 0
        """Requests that the store refused as too many, or did not answer in time."""

    def reserve(self) -> float:
        """Take the next turn. Return the seconds until it comes; 0 without a limit."""
        with self._lock:
            if self.limit is None:
                return 0.0
            now = self._clock()
            growth = min(GROWTH * 2 ** min(now - self._set, 10), MAX_GROWTH)
            self.limit *= (1 + growth) ** (now - self._grown)
            self._grown = now
            turn = max(self._next, now)
            self._next = turn + 1 / self.limit
            return turn - now

    def answered(self) -> None:
        """Count a request that the store answered with what was asked for."""
        with self._lock:
            self._answers.append(self._clock())
            self._forget()

    def refused(self, *, answered: bool) -> None:
        """Count a refusal. If the store did not answer at all (`answered` is False), it sets no limit."""
        with self._lock:
            self.refusals += 1
            if not answered or self._lifted:
                return
            now = self._clock()
            self._refusals.append(now)
            self._forget()
            answers, refusals = len(self._answers), len(self._refusals)
            share = refusals / (answers + refusals)
            if answers < ANSWERS:
                return
            if self.limit is None:
                if refusals >= FEWEST and share >= SHARE:
                    self._first = now
                    self._bind(now)
            elif now - self._set >= GRACE:
                self._bind(now)
                if now - self._first >= SETTLED:
                    self._settled = self._settled or self.limit
                    if share > FUTILE or self.limit < self._settled / 2:
                        self.limit, self._lifted = None, True

    def _bind(self, now: float) -> None:
        self.limit = EASED * len(self._answers) / max(now - self._answers[0], MIN_SPAN)
        self._set = self._grown = now

    def _forget(self) -> None:
        old = self._clock() - MEASURED
        for times in (self._answers, self._refusals):
            while times and times[0] < old:
                times.popleft()
