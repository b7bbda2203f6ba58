"""Finds requests in flight that take much longer than others of their size, to make them a second time."""

from collections import deque
from collections.abc import Callable, Hashable
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
    """A request is late if it takes this many times the median duration of others, and also `beyond`."""
    beyond: float = 1.5
    """A request is late only if it takes this many times the duration that nine in ten stay below."""
    late_at_end: float = 1.5
    """Replaces `late` when fewer than half of the maximum number are in flight: nothing else is left to do."""
    seen: float = 0.4
    """Part of the median duration for which an answer is watched before its rate says how long it will take."""
    share: float = 0.05
    """Maximum bytes requested twice, as a fraction of the bytes that have arrived or are in flight."""
    held: int = 32 << 20
    """Maximum bytes of memory for second answers."""
    tick: float = 0.025
    """Seconds between two checks."""


class _Active:
    """A request in flight."""

    __slots__ = ("asked", "began", "first", "size")

    def __init__(self, size: int, began: float) -> None:
        self.size = size
        self.began = began
        self.first: tuple[float, int] | None = None
        """When bytes were first seen, and how many they were."""
        self.asked = False
        """Whether it was made a second time."""

    def left(self, now: float, landed: int | None, seen: float) -> float | None:
        """Return the seconds until it ends, at its rate over at least the last `seen` seconds; None if unknown."""
        if not landed:
            return None
        if self.first is None:
            self.first = now, landed
        since, before = self.first
        if now - since < seen:
            return None
        return (self.size - landed) * (now - since) / max(landed - before, 1)


class Laggards(Generic[K]):
    """Keeps the times of requests, and finds the late ones. Not thread safe.

    A request is late once it has taken longer than others do. Where it is known how much of its answer has landed, it
    is late as soon as its rate says that it will.

    Args:
        policy: when to make a second request.
    """

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._active: dict[K, _Active] = {}
        self._held: dict[K, int] = {}  # bytes of memory for second answers
        self._times: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # bytes and seconds
        self._most = 0
        self._wanted = 0  # bytes that have arrived or are in flight
        self.spent = 0
        """All bytes requested a second time."""

    def begin(self, key: K, size: int, now: float) -> None:
        """Note that a request for `size` bytes begins."""
        self._active[key] = _Active(size, now)
        self._most = max(self._most, len(self._active))
        self._wanted += size

    def end(self, key: K, now: float, *, complete: bool, came: bool) -> None:
        """Note that a request has ended.

        Args:
            key: the request.
            now: the time.
            complete: whether its own answer brought all bytes.
            came: whether its own or the second answer did.
        """
        active = self._active.pop(key)
        if complete:
            self._times.append((active.size, now - active.began))
        if not came:
            self._wanted -= active.size

    def forget(self, key: K) -> None:
        """Note that the second answer's memory is free. Idempotent."""
        self._held.pop(key, None)

    @property
    def any(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._active)

    def find(self, now: float, landed: Callable[[K], int | None] = lambda _: None) -> list[K]:
        """Return the requests to make a second time now, each only once. They then count as made.

        Args:
            now: the time.
            landed: returns how many bytes of an answer have landed; None if that is not known.
        """
        policy = self._policy
        if len(self._times) < policy.known:
            return []
        late = policy.late_at_end if 2 * len(self._active) < self._most else policy.late
        usual: dict[int, tuple[float, float]] = {}
        found = []
        for key, active in self._active.items():
            size, age = active.size, now - active.began
            if active.asked:
                continue
            if size not in usual:
                usual[size] = self._usual(size)
            median, most = usual[size]
            if age < max(policy.seen * median, policy.min_seconds):
                continue
            longest = max(late * median, policy.beyond * most)
            if age < longest:
                left = active.left(now, landed(key), policy.seen * median)
                if left is None or age + left < longest or left < median:
                    continue
            fits = sum(self._held.values()) + size <= policy.held
            if fits and self.spent + size <= policy.share * self._wanted:
                active.asked = True
                self._held[key] = size
                self.spent += size
                found.append(key)
        return found

    def _usual(self, size: int) -> tuple[float, float]:
        """Return the seconds of a request for `size` bytes: the median, and what nine in ten stay below."""
        like = [seconds * size / other for other, seconds in self._times if size <= 2 * other <= 4 * size]
        if len(like) < self._policy.known:
            like = [seconds * size / other for other, seconds in self._times]
        like.sort()
        return like[len(like) // 2], like[len(like) * 9 // 10]
