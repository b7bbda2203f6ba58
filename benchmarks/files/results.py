"""Figures of loads from local disks, and their table."""

from __future__ import annotations

from benchmarks import tables
from benchmarks.checkpoints import SMALL, read_header
from benchmarks.files import limits
from benchmarks.files.measure import Sample, files_of
from benchmarks.files.peers import PEERS
from benchmarks.files.scenarios import Scenario, variant
from benchmarks.tables import cpu_s_per_gb, number

LIMIT_TITLES = {
    "raw-direct": "*limit: raw direct reads*",
    "preadv-loop": "*limit: two-thread preadv loop*",
    "two-buffers": "*limit: two threads, a buffer each*",
    "read-then-copy": "*limit: two threads read, then copy*",
    "fresh-pages": "*limit: reads into fresh huge pages*",
}

Row = tables.Row[Scenario, Sample]
Results = tables.Results[Scenario, Sample]


def title(scenario: Scenario, entry: str) -> str:
    loader, changed = variant(scenario, entry)
    text = LIMIT_TITLES.get(loader) or PEERS[loader].title
    if changed.cache != scenario.cache:
        return f"{text} ({changed.cache})"
    return f"{text} (no limit)" if changed.limit != scenario.limit else text


def first_ms(sample: Sample) -> float | None:
    return None if sample.first_s is None else sample.first_s * 1e3


def disk_ratio(sample: Sample) -> float | None:
    """Bytes that the disk was read for, over the files' size."""
    return None if sample.disk_bytes is None else sample.disk_bytes / sample.nbytes


def own_ratio(sample: Sample) -> float:
    """Bytes that these processes had read from storage, over the files' size."""
    return sample.own_bytes / sample.nbytes


def microseconds_per_tensor(row: Row) -> float | None:
    count = sum(len(read_header(path)) for path in files_of(row.scenario))
    return row.median(lambda sample: sample.seconds * 1e6 / count)


HEADINGS = (
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


def _cells(results: Results, row: Row) -> list[str]:
    is_limit = row.entry in limits.NAMES
    return [
        *row.speeds(),
        number(results.ratio(row.scenario.name, "ours", row.entry), 2),
        number(row.median(cpu_s_per_gb), 3),
        "" if is_limit else number(row.largest(lambda sample: sample.peak_mib), 0),
        "" if is_limit else number(row.largest(lambda sample: sample.anon_mib), 0),
        number(row.median(first_ms), 1),
        number(row.median(disk_ratio), 2),
        number(row.median(own_ratio), 2),
        number(row.median(lambda sample: sample.import_s), 1),
        number(microseconds_per_tensor(row), 2) if row.scenario.checkpoint in SMALL else "",
    ]


def table(results: Results) -> str:
    """Every row; under it, why those without figures have none."""
    return tables.table(results, HEADINGS, _cells)
