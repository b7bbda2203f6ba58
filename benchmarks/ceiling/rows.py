"""Rows of the tables: loads of one loader on one disk."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.ceiling import null_disk


@dataclass(frozen=True, slots=True)
class Table:
    """What is compared in one table."""

    checkpoint: str
    disks: Sequence[float]
    readers: Sequence[int]


@dataclass(slots=True)
class Row:
    """One loader on one disk; a sample of each list is one load."""

    checkpoint: str
    disk: float
    readers: int | None
    loader: str
    title: str
    speed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    said: list[null_disk.Said] = field(default_factory=list)
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """What the table says of it."""
        head = (f"{self.disk:g}", "-" if self.readers is None else str(self.readers), self.title)
        if self.failure or not self.speed:
            return (*head, self.failure or "no sample", "", "", "", "")
        held = [each.held for each in self.said if each.held is not None]
        return (
            *head,
            f"{statistics.median(self.speed):.1f}",
            f"{min(self.speed):.1f}-{max(self.speed):.1f}",
            f"{statistics.median(self.cpu):.4f}",
            f"{statistics.median(each.reads for each in self.said):.0f}",
            f"{statistics.median(held):.2f}" if held else "-",
        )
