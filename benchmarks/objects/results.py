"""Figures of loads from object storage, and their table."""

from __future__ import annotations

from benchmarks import tables
from benchmarks.objects.measure import Sample
from benchmarks.objects.peers import PEERS
from benchmarks.objects.scenarios import Scenario
from benchmarks.tables import cpu_s_per_gb, number

_VARIANTS = {"8": "8 connections", "steady": "no faults", "verify": "verified"}

Row = tables.Row[Scenario, Sample]
Results = tables.Results[Scenario, Sample]


def title(entry: str) -> str:
    loader, _, change = entry.partition("@")
    text = PEERS[loader].title
    return f"{text} ({_VARIANTS[change]})" if change else text


HEADINGS = (
    "GB/s",
    "min-max",
    "curl / it",
    "CPU s/GB",
    "first ms",
    "peak RSS MiB",
    "held up ms",
    "median ms",
    "elsewhere ms",
    "fetched / wanted",
    "refused %",
)


def _cells(results: Results, row: Row) -> list[str]:
    load = [""] * 6
    if row.entry != "idle":
        load = [
            *row.speeds(),
            number(results.ratio(row.scenario.name, "ours-curl", row.entry), 2),
            number(row.median(cpu_s_per_gb), 3),
            number(row.median(lambda sample: None if sample.first_s is None else sample.first_s * 1e3), 0),
            number(row.largest(lambda sample: sample.peak_mib), 0),
        ]
    return [
        *load,
        number(row.largest(lambda sample: sample.held_ms), 1),
        number(row.median(lambda sample: sample.median_ms), 3),
        number(row.largest(lambda sample: sample.elsewhere_ms), 1),
        number(row.largest(lambda sample: sample.fetched and sample.fetched / sample.nbytes), 3),
        number(row.median(lambda sample: sample.refused and 100 * sample.refused), 1),
    ]


def table(results: Results) -> str:
    """Every row; under it, why those without figures have none."""
    return tables.table(results, HEADINGS, _cells)
