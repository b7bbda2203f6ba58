"""The search for the fastest setting. It is pure except for the measuring function that it is given.

Noise must not decide. So every round measures the default again, together with the remaining settings, in alternating
order. Each round drops the slower settings, until one is left against the default. A setting counts as better only if
it beat the default in nearly all of at least three rounds after the one that chose it, with a median above `WORTH`.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from runai_model_streamer.cli.arguments import CHUNK, CONCURRENCY, CONNECTIONS, LIMIT
from runai_model_streamer.config import MIB, UNLIMITED
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.ranges import round_up

WORTH: Final = 1.03
"""Speedup that a setting needs. Less is not worth a line in a job script."""

_MIN_ROUNDS: Final = 3
_LOSSES: Final = 5
"""One round in five may be lost to noise."""
_MAX_ROUNDS: Final = 12
_KEPT: Final = 3
"""Keep one setting in three for the next round."""

_SLOW: Final = 2.5
"""A run is stopped once it takes 2.5 times as long as the default: it is clearly slower."""

_MARGIN: Final = 1.25
"""A run starts only if 1.25 times the setting's previous duration is left."""

_MIN_LIMIT: Final = 512 * MIB
_MAX_CONCURRENCY: Final = 256
"""The most threads worth trying."""


class Setting(NamedTuple):
    """The settings of a load that `tune` varies."""

    concurrency: int
    chunk: int
    """Bytes of one read."""
    limit: int
    """Bytes of memory; -1 for no limit."""
    objects: bool = False
    """Some of it is read from object storage: the concurrency is a number of connections."""

    def changes_from(self, other: "Setting") -> dict[str, str]:
        """Return the environment variables that change `other` into this setting."""
        names = (CONNECTIONS if self.objects else CONCURRENCY, CHUNK, LIMIT)
        pairs = zip(names, self[:3], other[:3], strict=True)
        return {name: str(mine) for name, mine, theirs in pairs if mine != theirs}


class Measure(Protocol):
    """Runs a load with a setting."""

    def __call__(self, setting: Setting, maximum: float) -> tuple[float, float]:
        """Return the bytes and seconds of one run, which is stopped after `maximum` seconds.

        Raises:
            StreamerError: this setting cannot be used.
        """
        ...


@dataclass(slots=True)
class Tried:
    """A setting and its measurements."""

    setting: Setting
    runs: dict[int, float] = field(default_factory=dict)
    """Bytes per second by round."""
    failure: StreamerError | None = None

    @property
    def speed(self) -> float:
        """The median in bytes per second; 0 without runs."""
        return statistics.median(self.runs.values()) if self.runs else 0.0

    def ratio(self, default: "Tried") -> float:
        """Return the median speedup over the default, of rounds that measured both; 0 without such a round."""
        pairs = self._pairs(default, 0)
        return statistics.median(pairs) if pairs else 0.0

    def is_better(self, default: "Tried") -> bool:
        """Return whether it is clearly faster than the default. The first round does not count: it may be luck."""
        pairs = self._pairs(default, 1)
        losses = sum(pair <= 1 for pair in pairs)
        return len(pairs) >= _MIN_ROUNDS and losses <= len(pairs) // _LOSSES and statistics.median(pairs) >= WORTH

    def _pairs(self, default: "Tried", first: int) -> list[float]:
        return [
            speed / default.runs[turn] for turn, speed in self.runs.items() if first <= turn and turn in default.runs
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    tried: Sequence[Tried]
    """All settings tried, the default first."""
    best: Tried
    """The default, unless another setting is clearly better."""

    @property
    def default(self) -> Tried:
        """The setting that all others are compared with."""
        return self.tried[0]


def candidates(default: Setting, min_chunk: int, largest: int) -> list[Setting]:
    """Return settings that each differ from the default in one value.

    Args:
        default: the current setting.
        min_chunk: bytes of the shortest possible read.
        largest: bytes of the largest tensor. A limit cannot be smaller.
    """
    concurrency, chunk, limit, _ = default
    # Include 64, which a fast link to an object store may need.
    farthest = concurrency // 4 if concurrency >= 16 else concurrency * 8
    several = (farthest, concurrency // 2, concurrency * 2, concurrency * 4)
    found = [default._replace(concurrency=n) for n in several if 0 < n <= _MAX_CONCURRENCY]
    found += [default._replace(chunk=n) for n in (chunk // 2, chunk * 2, chunk * 4) if n >= min_chunk]
    if limit == UNLIMITED:
        minimum = round_up(max(largest, _MIN_LIMIT), MIB)
        found += [default._replace(limit=minimum), default._replace(limit=4 * minimum)]
    else:
        found += [default._replace(limit=max(2 * limit, largest)), default._replace(limit=UNLIMITED)]
    return [each for each in dict.fromkeys(found) if each != default]


def search(
    default: Setting, others: Sequence[Setting], measure: Measure, ends: float, clock: Callable[[], float]
) -> Found:
    """Measure settings until the time is up, or more rounds would add nothing.

    Args:
        default: the setting to beat.
        others: the settings to try first. A combination of the best ones is tried too.
        measure: runs a load.
        ends: the deadline, in seconds of `clock`.
        clock: returns the time in seconds.

    Raises:
        StreamerError: the default itself cannot be used.
    """
    baseline = Tried(default)
    tried = [baseline, *map(Tried, others)]
    left = tried[1:]
    took: dict[Setting, float] = {}
    for turn in range(_MAX_ROUNDS):
        order = [baseline, *left]
        for each in order if turn % 2 == 0 else reversed(order):
            usual = took.get(default, 0.0)
            if clock() + _MARGIN * took.get(each.setting, usual) > ends:
                return _found(tried)
            _run(each, turn, measure, took, _SLOW * usual if usual else ends - clock(), is_default=each is baseline)
        left = _best(left, baseline)
        if turn == 0 and (combined := _combined(left, baseline)) not in [each.setting for each in tried]:
            tried.append(Tried(combined))
            left.append(tried[-1])
        if not left:
            break
    return _found(tried)


def _run(
    each: Tried, turn: int, measure: Measure, took: dict[Setting, float], maximum: float, *, is_default: bool
) -> None:
    try:
        count, seconds = measure(each.setting, maximum)
    except StreamerError as error:
        if is_default:
            raise
        each.failure = error
        return
    each.runs[turn] = count / seconds
    took[each.setting] = seconds


def _best(left: Sequence[Tried], default: Tried) -> list[Tried]:
    usable = [each for each in left if each.failure is None]
    ranked = sorted(usable, key=lambda each: -each.ratio(default))
    return ranked[: -(-len(ranked) // _KEPT)]


def _combined(left: Sequence[Tried], default: Tried) -> Setting:
    """Return a setting that combines the best changes of those that were faster."""
    combined = default.setting
    for each in reversed(left):
        if each.ratio(default) > 1:
            changes = zip(each.setting._fields[:3], each.setting[:3], default.setting[:3], strict=True)
            changed: dict[str, Any] = {name: mine for name, mine, theirs in changes if mine != theirs}
            combined = combined._replace(**changed)
    return combined


def _found(tried: Sequence[Tried]) -> Found:
    default = tried[0]
    better = [each for each in tried[1:] if each.is_better(default)]
    return Found(tried, max(better, key=lambda each: each.ratio(default), default=default))
