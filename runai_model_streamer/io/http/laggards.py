"""Finds requests in flight that take much longer than others of their size, to make them a second time."""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

_KEPT: Final = 256
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
    """Replaces `late` when fewer than half of those are in flight that were when the last began: nothing else is left
    to do."""
    seen: float = 0.4
    """Part of the median duration over which the rate of an answer is measured, from its first bytes on."""
    min_seen: float = 0.05
    """Minimum seconds over which it is measured."""
    worth: float = 2.0
    """A request is made a second time only if its rest would take so many times as long as it takes others, and half
    as long as a whole one."""
    crowd: float = 0.2
    """Where more than this part of the requests in flight are late, and more than one, none is: all are slower than
    before."""
    times: int = 2
    """Maximum second requests for one range, one after the other: a second one may be late too."""
    share: float = 0.05
    """Maximum bytes that come twice, as a fraction of the bytes that have arrived or are in flight. One range may
    always be requested a second time."""
    held: int = 32 << 20
    """Maximum bytes of memory for second answers."""
    tick: float = 0.025
    """Seconds between two checks."""


class Late(NamedTuple, Generic[K]):
    """A request to make a second time, for the rest of its bytes."""

    key: K
    landed: int
    """Bytes from its start that it has brought already."""
    rest: int
    """Bytes to request."""


class _Active:
    """A request in flight."""

    __slots__ = ("asked", "began", "landed", "left", "looked", "rest", "size", "times")

    def __init__(self, size: int, began: float) -> None:
        self.size = size
        self.began = began
        self.looked: float | None = None
        """When its bytes were last counted; None before the first have come."""
        self.landed = 0
        """How many they were."""
        self.left: float | None = None
        """Seconds until it ends, at its rate up to then; None if unknown."""
        self.asked = 0.0
        """When it was last made a second time."""
        self.rest = 0
        """What was requested then."""
        self.times = 0
        """How often it was."""

    def look(self, now: float, landed: int | None) -> None:
        """Measure its rate since the last look."""
        if not landed:
            return
        if self.looked is not None:
            self.left = (self.size - landed) * (now - self.looked) / max(landed - self.landed, 1)
        self.looked, self.landed = now, landed


class Laggards(Generic[K]):
    """Keeps the times of requests, and finds the late ones. Not thread safe.

    A request is late once it has taken longer than others do. Where it is known how much of its answer has landed, it
    is late as soon as its rate says that it will. Only what it lacks is requested again.

    Args:
        policy: when to make a second request.
    """

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._active: dict[K, _Active] = {}
        self._held = 0  # bytes of memory for second answers
        self._times: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # bytes and seconds
        self._usually = 0  # requests in flight when the last one began
        self._wanted = 0  # bytes that have arrived or are in flight
        self.spent = 0
        """Bytes that have come twice, and those of second requests in flight."""

    def begin(self, key: K, size: int, now: float) -> None:
        """Note that a request for `size` bytes begins."""
        self._active[key] = _Active(size, now)
        self._usually = len(self._active)
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

    def forget(self, late: Late[K], twice: int) -> None:
        """Note that a second request has ended, and how many bytes have come twice by it. Its memory is free."""
        self._held -= late.rest
        self.spent += twice - late.rest

    @property
    def any(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._active)

    def find(self, now: float, landed: Callable[[K], int | None] = lambda _: None) -> list[Late[K]]:
        """Return the requests to make a second time now. They then count as made.

        Args:
            now: the time.
            landed: returns how many bytes of an answer have landed; None if that is not known.
        """
        policy = self._policy
        if len(self._times) < policy.known:
            return []
        ending = 2 * len(self._active) < self._usually
        factor = policy.late_at_end if ending else policy.late
        usual: dict[int, tuple[float, float]] = {}
        late: list[tuple[K, _Active]] = []
        for key, active in self._active.items():
            size = active.size
            if size not in usual:
                usual[size] = self._usual(size)
            median, most = usual[size]
            longest = max(factor * median, policy.beyond * most, policy.min_seconds)
            if active.looked is None or now - active.looked >= max(policy.seen * median, policy.min_seen):
                active.look(now, landed(key))
            if self._is_late(active, now, median, longest):
                late.append((key, active))
        if not ending and len(late) > max(policy.crowd * len(self._active), 1):
            return []  # they do not lag behind others: all are slower than before
        found = []
        for key, active in late:
            if active.times >= policy.times:
                continue
            came = landed(key) or 0
            rest = active.size - came
            allowed = max(policy.share * self._wanted, active.size)
            if rest and self._held + rest <= policy.held and self.spent + rest <= allowed:
                active.times += 1
                active.asked, active.rest = now, rest
                self._held += rest
                self.spent += rest
                found.append(Late(key, came, rest))
        return found

    def _is_late(self, active: _Active, now: float, median: float, longest: float) -> bool:
        policy = self._policy
        age = now - active.began
        if active.times:
            return now - active.asked >= max(longest * active.rest / active.size, policy.min_seconds)
        if age >= longest:
            return True
        if active.left is None or age < policy.min_seconds or age + active.left < longest:
            return False
        expected = median * (active.size - active.landed) / active.size
        return active.left >= max(policy.worth * expected, median / 2)

    def _usual(self, size: int) -> tuple[float, float]:
        """Return the seconds of a request for `size` bytes: the median, and what nine in ten stay below."""
        like = [seconds * size / other for other, seconds in self._times if size <= 2 * other <= 4 * size]
        if len(like) < self._policy.known:
            like = [seconds * size / other for other, seconds in self._times]
        like.sort()
        return like[len(like) // 2], like[len(like) * 9 // 10]
