"""What was wanted of our own code, each line computed from a run's rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.ceiling import null_gpu
from benchmarks.ceiling.rows import Row, Table
from benchmarks.claims import Claim, least, most, spread

TABLES = (
    Table("large", (25, 50, 1000), (16, 64)),
    Table("70b", (50, 100, 1000), (16, 64)),
    Table("many", (1000,), (16,)),
)
FAST = 1000
STEP = 8 << 20


class _Found:
    """Rows by what they are of."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row.checkpoint, row.disk, row.readers, row.loader): row for row in rows}
        self.loaders = list(dict.fromkeys(row.loader for row in rows))

    def speeds(self, checkpoint: str, disk: float, readers: int | None, loader: str) -> list[float]:
        row = self._rows.get((checkpoint, disk, readers, loader))
        if row is None:  # a loader whose readers cannot be set
            row = self._rows.get((checkpoint, disk, None, loader))
        return [] if row is None else row.speed

    def speed(self, checkpoint: str, disk: float, readers: int, loader: str = "ours") -> float | None:
        return _median(self.speeds(checkpoint, disk, readers, loader))

    def cpu(self, checkpoint: str, disk: float, readers: int, loader: str = "ours") -> float | None:
        row = self._rows.get((checkpoint, disk, readers, loader))
        return None if row is None else _median(row.cpu)

    def ratios(self, checkpoint: str, disk: float, readers: int, other: str) -> list[float]:
        ours = self.speeds(checkpoint, disk, readers, "ours")
        return [mine / its for mine, its in zip(ours, self.speeds(checkpoint, disk, readers, other), strict=False)]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other


def _bytes_of(checkpoint: str) -> int:
    files: tuple[Path, ...] = checkpoints.make(checkpoint).files
    return sum(path.stat().st_size for path in files)


def claims_of(rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield what was wanted, and whether the run kept it; what it has no rows of is not measured."""
    found = _Found(rows)
    peers = [loader for loader in found.loaders if not loader.startswith("ours")]
    for readers in (16, 64):
        yield least(1, f"4 GB, {readers} readers: GB/s", found.speed("large", FAST, readers), 60)
        yield most(1, f"4 GB, {readers} readers: CPU s/GB", found.cpu("large", FAST, readers), 0.02)
        for disk in (25, 50):
            share = _over(found.speed("large", disk, readers), disk)
            yield least(1, f"4 GB, {readers} readers: of a disk of {disk} GB/s", share, 0.95)
    slow = _over(found.speed("large", FAST, 64), found.speed("large", FAST, 16))
    yield least(1, "4 GB: 64 readers, of 16", slow, 0.9)
    slow = _over(found.speed("70b", FAST, 64), found.speed("70b", FAST, 16))
    yield least(1, "138 GB: 64 readers, of 16", slow, 0.9)
    for checkpoint in ("large", "70b"):
        for readers in (16, 64):
            for peer in peers:
                ratios = found.ratios(checkpoint, FAST, readers, peer)
                yield least(2, f"{checkpoint}, {readers} readers: times {peer}", _median(ratios), 1, spread(ratios))
    speed = found.speed("70b", FAST, 16, null_gpu.NAME)
    yield least(3, "138 GB onto a GPU: GB/s", speed, 80)
    cpu = found.cpu("70b", FAST, 16, null_gpu.NAME)
    yield most(3, "138 GB onto a GPU: CPU us for 8 MiB", _times(cpu, STEP / 1e9 * 1e6), 60)
    speed = found.speed("many", FAST, 16, null_gpu.NAME)
    seconds = None if not speed else _bytes_of("many") / 1e9 / speed
    yield most(3, "50,000 small tensors onto a GPU: s", seconds, 0.4)
