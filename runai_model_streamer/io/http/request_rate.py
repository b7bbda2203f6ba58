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

LONGEST: Final = 1.0
"""Maximum seconds until one that waits for its turn asks again: the limit may have been lifted."""

SHORTEST: Final = 1e-4
"""Seconds below which a turn has come."""

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
        self._given = self._due = 0.0  # number of the last turn, and of the last one that has come
        self._first = self._set = 0.0  # when the limit was first set, and last
        self._grown = 0.0  # when it last grew
        self._settled = 0.0  # the limit after `SETTLED` seconds
        self._lifted = False
        self.limit: float | None = None
        """Maximum requests per second; None for no limit."""
        self.refusals = 0
        """Requests that the store refused as too many, or did not answer in time."""

    def reserve(self) -> float:
        """Take the next turn, and return its number; 0 without a limit."""
        if self.limit is None:
            return 0.0
        with self._lock:
            self._pass(self._clock())
            self._given = max(self._given, self._due) + 1
            return self._given

    def wait(self, turn: float) -> float:
        """Return the seconds until this turn should come, to ask again then; 0 if it has come.

        The limit may change meanwhile. Turns that were given before would else come too fast for as long as hundreds
        of connections wait for theirs.
        """
        if self.limit is None:
            return 0.0
        with self._lock:
            self._pass(self._clock())
            left = 0.0 if self.limit is None else (turn - self._due) / self.limit
            return min(left, LONGEST) if left > SHORTEST else 0.0

    def _pass(self, now: float) -> None:
        """Let turns come, and the limit grow, until now."""
        if self.limit is not None:
            passed = now - self._grown
            growth = min(GROWTH * 2 ** min(now - self._set, 10), MAX_GROWTH)
            self._due = min(self._due + self.limit * passed, max(self._given, self._due))
            self.limit *= (1 + growth) ** passed
            self._grown = now

    def answered(self) -> None:
        """Count a request that the store answered with what was asked for."""
        now = self._clock()
        with self._lock:
            self._answers.append(now)
            if self._answers[0] < now - MEASURED:
                self._forget(now)

    def refused(self, *, answered: bool) -> None:
        """Count a refusal. If the store did not answer at all (`answered` is False), it sets no limit."""
        with self._lock:
            self.refusals += 1
            if not answered or self._lifted:
                return
            now = self._clock()
            self._refusals.append(now)
            self._forget(now)
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
        self._pass(now)
        self.limit = EASED * len(self._answers) / max(now - self._answers[0], MIN_SPAN)
        self._set = self._grown = now

    def _forget(self, now: float) -> None:
        old = now - MEASURED
        for times in (self._answers, self._refusals):
            while times and times[0] < old:
                times.popleft()


class RequestRates:
    """Paces requests to each bucket or host of a store by itself: one that refuses many slows no other. Thread safe.

    Args:
        clock: returns seconds from an arbitrary moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates: dict[str, RequestRate] = {}
        self._of: dict[str, RequestRate] = {}  # by URL, since each request asks

    def of(self, url: str) -> RequestRate:
        """Return what paces requests to the bucket or host of a URL."""
        rate = self._of.get(url)
        if rate is None:
            host = url.partition("://")[2].partition("/")[0]
            rate = self._of[url] = self._rates.setdefault(host, RequestRate(self._clock))
        return rate

    @property
    def refusals(self) -> int:
        """Requests that were refused as too many, or not answered in time."""
        return sum(rate.refusals for rate in list(self._rates.values()))
