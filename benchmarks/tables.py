"""Samples to medians, and medians to tables that line up as text and render as markdown.

What files/results.py and objects/results.py share.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Sample(Protocol):
    """One load; seconds and bytes as the names say."""

    @property
    def nbytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def cpu_s(self) -> float: ...
    @property
    def gb_per_s(self) -> float: ...


class Scenario(Protocol):
    """One block of the table."""

    @property
    def name(self) -> str: ...


SampleT = TypeVar("SampleT", bound=Sample)
ScenarioT = TypeVar("ScenarioT", bound=Scenario)


def speed(sample: Sample) -> float:
    return sample.gb_per_s


def cpu_s_per_gb(sample: Sample) -> float:
    return sample.cpu_s / sample.nbytes * 1e9


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


@dataclass(slots=True)
class Row(Generic[ScenarioT, SampleT]):
    """The counted samples of one entry of a scenario, one a round; or why there are none."""

    scenario: ScenarioT
    entry: str
    title: str
    """What the table calls the entry."""
    samples: list[SampleT] = field(default_factory=list)
    failure: str = ""

    def figures(self, figure: Callable[[SampleT], float | None]) -> list[float]:
        """The figure of every sample that has it."""
        return [value for value in map(figure, self.samples) if value is not None]

    def median(self, figure: Callable[[SampleT], float | None]) -> float | None:
        return median(self.figures(figure))

    def largest(self, figure: Callable[[SampleT], float | None]) -> float | None:
        """Of all rounds: a bound is a bound."""
        return max(self.figures(figure), default=None)

    def speeds(self) -> list[str]:
        """GB/s for the table: the median, and the range of all rounds."""
        values = self.figures(speed)
        return [f"{statistics.median(values):.2f}", f"{min(values):.2f}-{max(values):.2f}"]


class Results(Generic[ScenarioT, SampleT]):
    """All rows of a run, by scenario and entry."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row[ScenarioT, SampleT]] = {}

    def add(self, row: Row[ScenarioT, SampleT]) -> None:
        self.rows[row.scenario.name, row.entry] = row

    def row(self, scenario: str, entry: str) -> Row[ScenarioT, SampleT] | None:
        """The row, or None where it was not run or failed."""
        row = self.rows.get((scenario, entry))
        return row if row and row.samples else None

    def median(self, scenario: str, entry: str, figure: Callable[[SampleT], float | None]) -> float | None:
        """Of a row's figures; None where it was not measured."""
        row = self.row(scenario, entry)
        return row.median(figure) if row else None

    def largest(self, scenario: str, entry: str, figure: Callable[[SampleT], float | None]) -> float | None:
        """Of a row's figures; None where it was not measured."""
        row = self.row(scenario, entry)
        return row.largest(figure) if row else None

    def ratios(self, scenario: str, entry: str, other: str, figure: Callable[[SampleT], float] = speed) -> list[float]:
        """A figure of `entry` over that of `other`, round by round: what drifts with the machine cancels."""
        ours, theirs = self.row(scenario, entry), self.row(scenario, other)
        if ours is None or theirs is None:
            return []
        return [figure(one) / figure(two) for one, two in zip(ours.samples, theirs.samples, strict=False)]

    def ratio(self, scenario: str, entry: str, other: str, figure: Callable[[SampleT], float] = speed) -> float | None:
        """The median of `ratios`."""
        return median(self.ratios(scenario, entry, other, figure))


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """A markdown table; the first `left` columns are text, the others are numbers and lie to the right."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(rows[0]), f"| {' | '.join(rule)} |", *(line(row) for row in rows[1:])])


def table(
    results: Results[ScenarioT, SampleT],
    headings: Sequence[str],
    cells: Callable[[Results[ScenarioT, SampleT], Row[ScenarioT, SampleT]], list[str]],
) -> str:
    """Every row, `cells` behind its scenario's name and its title; under the table, why those without have none."""
    rows = list(results.rows.values())
    lines = [("scenario", "loader", *headings)]
    for row in rows:
        found = cells(results, row) if row.samples else ["failed", *[""] * (len(headings) - 1)]
        lines.append((row.scenario.name, row.title, *found))
    failures = [f"- {row.scenario.name}, {row.title}: {row.failure}" for row in rows if row.failure]
    return "\n".join([aligned(lines, left=2), "", *failures]) if failures else aligned(lines, left=2)
