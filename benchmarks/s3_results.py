"""Samples of loads from object storage to medians, and medians to a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.results import aligned
from benchmarks.s3_measure import Sample
from benchmarks.s3_peers import PEERS
from benchmarks.s3_scenarios import Scenario

_VARIANTS = {"steady": "no faults", "verify": "verified"}

Figure = Callable[[Sample], float | None]


def cpu_s_per_gb(sample: Sample) -> float:
    return sample.cpu_s / sample.nbytes * 1e9


@dataclass(slots=True)
class Row:
    """The counted samples of one entry of a scenario, one a round; or why there are none."""

    scenario: Scenario
    entry: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    @property
    def title(self) -> str:
        loader, _, change = self.entry.partition("@")
        title = PEERS[loader].title
        return f"{title} ({_VARIANTS[change]})" if change else title

    def figures(self, figure: Figure) -> list[float]:
        """The figure of every sample that has it."""
        return [value for value in map(figure, self.samples) if value is not None]

    def median(self, figure: Figure) -> float | None:
        values = self.figures(figure)
        return statistics.median(values) if values else None

    def largest(self, figure: Figure) -> float | None:
        """Of all rounds: a bound is a bound."""
        return max(self.figures(figure), default=None)


class Results:
    """All rows of a run, by scenario and entry."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def add(self, row: Row) -> None:
        self.rows[row.scenario.name, row.entry] = row

    def row(self, scenario: str, entry: str) -> Row | None:
        """The row, or None where it was not run or failed."""
        row = self.rows.get((scenario, entry))
        return row if row and row.samples else None

    def ratios(self, scenario: str, entry: str, other: str, figure: Callable[[Sample], float]) -> list[float]:
        """A figure of `entry` over that of `other`, round by round: what drifts with the machine cancels."""
        ours, theirs = self.row(scenario, entry), self.row(scenario, other)
        if ours is None or theirs is None:
            return []
        return [figure(one) / figure(two) for one, two in zip(ours.samples, theirs.samples, strict=False)]


HEADINGS = (
    "scenario",
    "loader",
    "GB/s",
    "min-max",
    "curl / it",
    "CPU s/GB",
    "first ms",
    "peak RSS MiB",
    "held up ms",
    "median ms",
    "elsewhere ms",
)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _cells(results: Results, row: Row) -> list[str]:
    start = [row.scenario.name, row.title]
    if not row.samples:
        return [*start, "failed", *[""] * (len(HEADINGS) - 3)]
    if row.entry == "idle":
        load = [""] * 6
    else:
        speeds = row.figures(lambda sample: sample.gb_per_s)
        ratios = results.ratios(row.scenario.name, "ours-curl", row.entry, lambda sample: sample.gb_per_s)
        first = row.median(lambda sample: sample.first_s)
        load = [
            f"{statistics.median(speeds):.2f}",
            f"{min(speeds):.2f}-{max(speeds):.2f}",
            _number(statistics.median(ratios) if ratios else None, 2),
            _number(row.median(cpu_s_per_gb), 3),
            _number(None if first is None else first * 1e3, 0),
            _number(row.largest(lambda sample: sample.peak_mib), 0),
        ]
    return [
        *start,
        *load,
        _number(row.largest(lambda sample: sample.held_ms), 1),
        _number(row.median(lambda sample: sample.median_ms), 3),
        _number(row.largest(lambda sample: sample.elsewhere_ms), 1),
    ]


def table(results: Results) -> str:
    """Every row; under it, why those without figures have none."""
    rows = list(results.rows.values())
    failures = [f"- {row.scenario.name}, {row.title}: {row.failure}" for row in rows if row.failure]
    text = aligned([HEADINGS, *(_cells(results, row) for row in rows)], left=2)
    return "\n".join([text, "", *failures]) if failures else text
