"""The search for the fastest setting: pure, but for the measuring that it is given.

Noise must not win, so that every round measures the default again, beside those that are left, in turns forwards and
backwards; after each round the slower ones are left out, until one duels with the default. A setting is called better
only if it was faster than the default in nearly all of at least three rounds after the one that chose it, and by more
than `WORTH` in their median.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from runai_model_streamer.cli.arguments import CHUNK, CONCURRENCY, LIMIT
from runai_model_streamer.config import MIB, UNLIMITED
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.ranges import round_up

WORTH: Final = 1.03
"""How much faster a setting has to be; less is not worth a line in anybody's job script."""

_MIN_ROUNDS: Final = 3
_LOSSES: Final = 5
"""One round of so many may be lost to noise."""
_MAX_ROUNDS: Final = 12
_KEPT: Final = 3
"""One of so many goes on to the next round."""

_SLOW: Final = 2.5
"""A run that lasts so many times as long as the default's is broken off: that much is known of it."""

_MARGIN: Final = 1.25
"""A run is begun when so many times what the setting took before is left of the time."""

_MIN_LIMIT: Final = 512 * MIB
_MAX_CONCURRENCY: Final = 256
"""Threads, of which more cost more than they bring."""


class Setting(NamedTuple):
    """What a load can be told."""

    concurrency: int
    chunk: int
    """Bytes."""
    limit: int
    """Bytes; -1 is no limit."""

    def beside(self, other: "Setting") -> dict[str, str]:
        """The environment variables in which this one differs from another."""
        names = (CONCURRENCY, CHUNK, LIMIT)
        return {name: str(mine) for name, mine, theirs in zip(names, self, other, strict=True) if mine != theirs}


class Measure(Protocol):
    """Makes a run."""

    def __call__(self, setting: Setting, maximum: float) -> tuple[float, float]:
        """Bytes and seconds; a run that takes `most` seconds is broken off.

        Raises:
            StreamerError: this setting cannot be used.
        """
        ...


@dataclass(slots=True)
class Tried:
    """A setting and what was measured of it."""

    setting: Setting
    runs: dict[int, float] = field(default_factory=dict)
    """Round -> bytes per second."""
    failure: StreamerError | None = None

    @property
    def speed(self) -> float:
        """The median; 0 if there is none."""
        return statistics.median(self.runs.values()) if self.runs else 0.0

    def ratio(self, default: "Tried") -> float:
        """How many times as fast as the default, in the median of the rounds that measured both; 0 if there is none."""
        pairs = self._pairs(default, 0)
        return statistics.median(pairs) if pairs else 0.0

    def is_better(self, default: "Tried") -> bool:
        """Whether it is faster than the default beyond doubt. The first round does not count: it chose by luck, too."""
        pairs = self._pairs(default, 1)
        losses = sum(pair <= 1 for pair in pairs)
        return len(pairs) >= _MIN_ROUNDS and losses <= len(pairs) // _LOSSES and statistics.median(pairs) >= WORTH

    def _pairs(self, default: "Tried", first: int) -> list[float]:
        return [
            speed / default.runs[turn] for turn, speed in self.runs.items() if first <= turn and turn in default.runs
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search."""

    tried: Sequence[Tried]
    """The default first."""
    best: Tried
    """The default, unless another one is better beyond doubt."""

    @property
    def default(self) -> Tried:
        """What all are compared with."""
        return self.tried[0]


def candidates(default: Setting, min_chunk: int, largest: int) -> list[Setting]:
    """Settings that differ from the default in one thing each.

    Args:
        default: as it is without any of them.
        min_chunk: bytes of the shortest read that there is.
        largest: bytes of the largest tensor, which no limit may be below.
    """
    concurrency, chunk, limit = default
    # As many as 64 at once, which a fast link to an object store may take.
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
    """Measure settings until the time is over, or as much is known as rounds can tell.

    Args:
        default: what the others have to beat.
        others: the settings to try first; combinations of the best are tried too.
        measure: makes a run.
        ends: when to be done, in `clock`'s seconds.
        clock: tells the time.

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
    """Of those that were faster, the best in each thing, together."""
    combined = default.setting
    for each in reversed(left):
        if each.ratio(default) > 1:
            changes = zip(each.setting._fields, each.setting, default.setting, strict=True)
            combined = combined._replace(**{name: mine for name, mine, theirs in changes if mine != theirs})
    return combined


def _found(tried: Sequence[Tried]) -> Found:
    default = tried[0]
    better = [each for each in tried[1:] if each.is_better(default)]
    return Found(tried, max(better, key=lambda each: each.ratio(default), default=default))
