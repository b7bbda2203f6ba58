"""Samples to medians, and medians to tables that line up as text and render as markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import limits
from benchmarks.checkpoints import read_header
from benchmarks.measure import Sample, files_of
from benchmarks.peers import PEERS
from benchmarks.scenarios import Scenario, variant

LIMIT_TITLES = {
    "raw-direct": "*limit: raw direct reads*",
    "preadv-loop": "*limit: two-thread preadv loop*",
    "fresh-pages": "*limit: reads into fresh huge pages*",
}


@dataclass(slots=True)
class Row:
    """The counted samples of one entry of a scenario, one a round; or why there are none."""

    scenario: Scenario
    entry: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    @property
    def title(self) -> str:
        loader, changed = variant(self.scenario, self.entry)
        title = LIMIT_TITLES.get(loader) or PEERS[loader].title
        if changed.cache != self.scenario.cache:
            title += f" ({changed.cache})"
        elif changed.limit != self.scenario.limit:
            title += " (no limit)"
        return title

    @property
    def gb_per_s(self) -> float:
        return statistics.median(sample.gb_per_s for sample in self.samples)

    @property
    def cpu_s_per_gb(self) -> float:
        return statistics.median(sample.cpu_s / sample.nbytes * 1e9 for sample in self.samples)

    @property
    def seconds(self) -> float:
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def first_ms(self) -> float | None:
        firsts = [sample.first_s for sample in self.samples if sample.first_s is not None]
        return statistics.median(firsts) * 1e3 if firsts else None

    @property
    def import_s(self) -> float | None:
        imports = [sample.import_s for sample in self.samples if sample.import_s is not None]
        return statistics.median(imports) if imports else None

    @property
    def peak_mib(self) -> float:
        """The largest of all rounds: a bound is a bound."""
        return max(sample.peak_mib for sample in self.samples)

    @property
    def anon_mib(self) -> float:
        return max(sample.anon_mib for sample in self.samples)

    @property
    def disk_ratio(self) -> float | None:
        """Bytes that the disk was read for, over the files' size."""
        ratios = [s.disk_bytes / s.nbytes for s in self.samples if s.disk_bytes is not None]
        return statistics.median(ratios) if ratios else None

    @property
    def own_ratio(self) -> float:
        """Bytes that these processes had read from storage, over the files' size."""
        return statistics.median(s.own_bytes / s.nbytes for s in self.samples)

    @property
    def microseconds_per_tensor(self) -> float:
        return self.seconds * 1e6 / sum(len(read_header(path)) for path in files_of(self.scenario))


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

    def ratios(self, scenario: str, entry: str, other: str) -> list[float]:
        """How many times as fast `entry` was as `other`, round by round: what drifts with the machine cancels."""
        ours, theirs = self.row(scenario, entry), self.row(scenario, other)
        if ours is None or theirs is None:
            return []
        return [theirs_.seconds / ours_.seconds for ours_, theirs_ in zip(ours.samples, theirs.samples, strict=False)]

    def ratio(self, scenario: str, entry: str, other: str) -> float | None:
        ratios = self.ratios(scenario, entry, other)
        return statistics.median(ratios) if ratios else None


HEADINGS = (
    "scenario",
    "loader",
    "GB/s",
    "min-max",
    "ours / it",
    "CPU s/GB",
    "peak RSS MiB",
    "anon MiB",
    "first ms",
    "disk / size",
    "own / size",
    "import s",
    "us/tensor",
)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _cells(results: Results, row: Row) -> list[str]:
    if not row.samples:
        return [row.scenario.name, row.title, "failed", *[""] * (len(HEADINGS) - 3)]
    speeds = [sample.gb_per_s for sample in row.samples]
    is_limit = row.entry in limits.NAMES
    return [
        row.scenario.name,
        row.title,
        f"{row.gb_per_s:.2f}",
        f"{min(speeds):.2f}-{max(speeds):.2f}",
        _number(results.ratio(row.scenario.name, "ours", row.entry), 2),
        f"{row.cpu_s_per_gb:.3f}",
        "" if is_limit else f"{row.peak_mib:.0f}",
        "" if is_limit else f"{row.anon_mib:.0f}",
        _number(row.first_ms, 1),
        _number(row.disk_ratio, 2),
        _number(row.own_ratio, 2),
        _number(row.import_s, 1),
        f"{row.microseconds_per_tensor:.2f}" if row.scenario.checkpoint == "many" else "",
    ]


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


def table(results: Results) -> str:
    """Every row; under it, why those without figures have none."""
    rows = list(results.rows.values())
    failures = [f"- {row.scenario.name}, {row.title}: {row.failure}" for row in rows if row.failure]
    text = aligned([HEADINGS, *(_cells(results, row) for row in rows)], left=2)
    return "\n".join([text, "", *failures]) if failures else text
