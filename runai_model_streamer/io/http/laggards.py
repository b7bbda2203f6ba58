"""Finds requests in flight that take much longer than others of their size, to make them a second time."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_KEPT: Final = 64
"""Number of requests whose times are kept."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When to make a second request."""

    min_bytes: int = 1 << 20
    """Minimum bytes of a range for a second request. The time of a shorter one is mostly the round trip."""
    min_seconds: float = 0.1
    """Minimum seconds before a request is late."""
    known: int = 8
    """Minimum number of ended requests before any is late."""
    late: float = 3.0
    """A request is late after this many times the median duration of others, and also after `beyond`."""
    beyond: float = 1.5
    """A request is late only after this many times the duration that nine in ten stay below."""
    late_at_end: float = 1.5
    """Replaces `late` when fewer than half of the maximum number are in flight: nothing else is left to do."""
    share: float = 0.05
    """Maximum bytes requested twice, as a fraction of the bytes that have arrived."""
    held: int = 32 << 20
    """Maximum bytes of memory for second answers."""
    tick: float = 0.05
    """Seconds between two checks."""


class Laggards(Generic[K]):
    """Keeps the times of requests, and finds the late ones. Not thread safe.

    Args:
        policy: when to make a second request.
    """

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._active: dict[K, tuple[int, float]] = {}  # bytes, and when it began
        self._asked: set[K] = set()  # requests in flight that were made a second time
        self._held: dict[K, int] = {}  # bytes of memory for second answers
        self._times: deque[float] = deque(maxlen=_KEPT)  # seconds for each byte
        self._most = 0
        self._came = 0
        self.spent = 0
        """All bytes requested a second time."""

    def begin(self, key: K, size: int, now: float) -> None:
        """Note that a request for `size` bytes begins."""
        self._active[key] = size, now
        self._most = max(self._most, len(self._active))

    def end(self, key: K, now: float, *, complete: bool, came: bool) -> None:
        """Note that a request has ended.

        Args:
            key: the request.
            now: the time.
            complete: whether its own answer brought all bytes.
            came: whether its own or the second answer did.
        """
        size, began = self._active.pop(key)
        self._asked.discard(key)
        if complete:
            self._times.append((now - began) / size)
        if came:
            self._came += size

    def forget(self, key: K) -> None:
        """Note that the second answer's memory is free. Idempotent."""
        self._held.pop(key, None)

    @property
    def any(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._active)

    def find(self, now: float) -> list[K]:
        """Return the requests to make a second time now, each only once. They then count as made."""
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
