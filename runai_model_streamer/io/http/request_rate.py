"""Requests a second, where a store refuses more of them.

Fewer connections alone do not help against a bound on requests: on a fast network even a few are too many. So once a
store refuses several requests (503 SlowDown, 429), their rate is bound to a little less than it has just answered. The
bound grows, slowly at first and then faster, and falls again with the next refusal. So few requests are refused, and a
bound that was too low does not last.

A store may refuse for other reasons. If it still refuses a lot after a while, or a bound that fell by half changes
nothing, there is none any more.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

EASED: Final = 0.9
"""Part of the rate of answers that is asked for after a refusal."""

GROWTH: Final = 0.02
"""Part by which the bound grows in the first second; in each later one it is twice as much, up to ..."""

MAX_GROWTH: Final = 0.5
"""... this."""

MEASURED: Final = 2.0
"""Seconds over which answers and refusals are counted."""

FEWEST: Final = 3
"""Refusals in that time before there is a bound, and ..."""

SHARE: Final = 0.05
"""... their part of all requests, and ..."""

ANSWERS: Final = 10
"""... answers without which their rate is not known."""

SETTLED: Final = 4.0
"""Seconds after the first bound in which few refusals are left, and ..."""

FUTILE: Final = 0.2
"""... part of requests that are too many then."""

MIN_SPAN: Final = 0.05
"""Seconds; answers in less time than this do not tell a rate."""

GRACE: Final = 0.5
"""Seconds after the bound was set in which refusals are of requests made before."""


class RequestRate:
    """Paces requests to one store. Thread safe.

    Args:
        clock: seconds, from any zero.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: deque[float] = deque()
        self._refusals: deque[float] = deque()
        self._next = 0.0  # when the next request may be made
        self._first = self._set = 0.0  # when the bound was first set, and last
        self._grown = 0.0  # when it last grew
        self._settled = 0.0  # the bound after it was in force for a while
        self._lifted = False
        self.limit: float | None = None
        """Requests a second at most; None: no bound."""
        self.refusals = 0
        """Requests that were refused for their number, or not answered in time."""

    def reserve(self) -> float:
        """Take the next turn. Return the seconds until it comes; 0 if there is no bound."""
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
        """Count a refusal. `answered`: the store said so. If it did not answer at all, nothing is bound."""
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
