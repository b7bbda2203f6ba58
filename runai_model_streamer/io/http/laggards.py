"""Requests in flight that take much longer than others of their size: which to ask for a second time, and when."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_KEPT: Final = 64
"""Requests whose times are kept."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When to ask a second time."""

    min_bytes: int = 1 << 20
    """Shorter ranges are not asked for again: their time is mostly that of the round trip."""
    min_seconds: float = 0.1
    """A request takes at least this long before it is late."""
    known: int = 8
    """Requests that have ended before any is late."""
    late: float = 3.0
    """Times the median of their times, and at least ..."""
    beyond: float = 1.5
    """... times the time that nine in ten take."""
    late_at_end: float = 1.5
    """The same as `late` when fewer than half as many are in flight as there were: nothing else is left to do."""
    share: float = 0.05
    """The most bytes asked for again, as a part of those that have come."""
    held: int = 32 << 20
    """The most bytes of memory for second answers."""
    tick: float = 0.05
    """Seconds between two looks."""


class Laggards(Generic[K]):
    """Keeps the times of requests. Not thread-safe.

    Args:
        policy: when to ask a second time.
    """

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._active: dict[K, tuple[int, float]] = {}  # bytes, and when it began
        self._asked: set[K] = set()  # of those, the ones that were made a second time
        self._held: dict[K, int] = {}  # bytes of memory of second answers
        self._times: deque[float] = deque(maxlen=_KEPT)  # seconds for each byte
        self._most = 0
        self._came = 0
        self.spent = 0
        """Bytes asked for a second time, in all."""

    def begin(self, key: K, size: int, now: float) -> None:
        """A request for `size` bytes begins."""
        self._active[key] = size, now
        self._most = max(self._most, len(self._active))

    def end(self, key: K, now: float, *, complete: bool, came: bool) -> None:
        """It has ended. `complete`: all bytes came with its own answer; `came`: with that or the second one."""
        size, began = self._active.pop(key)
        self._asked.discard(key)
        if complete:
            self._times.append((now - began) / size)
        if came:
            self._came += size

    def forget(self, key: K) -> None:
        """The second answer to it needs no memory any more. Idempotent."""
        self._held.pop(key, None)

    @property
    def any(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._active)

    def find(self, now: float) -> list[K]:
        """Return the requests to make a second time now, each only once. They count as made."""
        policy = self._policy
        if len(self._times) < policy.known:
            return []
        times = sorted(self._times)
        late = policy.late_at_end if 2 * len(self._active) < self._most else policy.late
        each = max(late * times[len(times) // 2], policy.beyond * times[len(times) * 9 // 10])
        found = []
        for key, (size, began) in self._active.items():
            if key in self._asked or now - began < max(each * size, policy.min_seconds):
                continue
            fits = sum(self._held.values()) + size <= policy.held
            if fits and self.spent + size <= policy.share * self._came:
                self._asked.add(key)
                self._held[key] = size
                self.spent += size
                found.append(key)
        return found
