"""Builds the null disk, `null_disk.c`, and says how a process is started on it."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import cache_folder

SOURCE = Path(__file__).with_name("null_disk.c")
LATENCY_US = 80
"""Of a read: what a local SSD takes."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the disk saw of a process.

    Attributes:
        reads: of 128 KiB and more.
        nbytes: in them.
        held: share of the time between the first and the last of them that the GIL was held; None: not known here.
    """

    reads: int
    nbytes: int
    held: float | None


def build(folder: Path | None = None, source: Path = SOURCE) -> Path:
    """The library to preload, or one made from another source, made by the C compiler unless it is there."""
    folder = folder or cache_folder() / "null_disk"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        partial = library.with_suffix(".partial")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", partial, source, "-ldl", "-lpthread"], check=True)
        partial.replace(library)
    return library


def header_bytes(files: Iterable[Path]) -> int:
    """Bytes from the start of a file to the end of its header, of the file with the longest one."""
    longest = 0
    for path in files:
        with path.open("rb") as file:
            longest = max(longest, 8 + int.from_bytes(file.read(8), "little"))
    return longest


def variables(
    library: Path, gb_per_s: float, report: Path, latency_us: int = LATENCY_US, header: int = 0
) -> dict[str, str]:
    """What the environment of a process on this disk has in addition.

    header: see `header_bytes`; reads of headers are real, however large.
    """
    return {
        "LD_PRELOAD": str(library),
        "NULLDISK_GBS": str(gb_per_s),
        "NULLDISK_US": str(latency_us),
        "NULLDISK_HEADER": str(header),
        "NULLDISK_REPORT": str(report),
    }


def shared(library: Path, gb_per_s: float, clock: Path) -> dict[str, str]:
    """The same, for processes that read one disk together. The clock's file must not be there yet."""
    clock.write_bytes(bytes(8))
    return {
        "LD_PRELOAD": str(library),
        "NULLDISK_GBS": str(gb_per_s),
        "NULLDISK_US": str(LATENCY_US),
        "NULLDISK_CLOCK": str(clock),
    }


def said(report: Path) -> Said:
    """What is in the report of a process that has ended; nothing where it has made no large read."""
    if not report.exists():
        return Said(0, 0, None)
    reads, nbytes, held = report.read_text().split()
    return Said(int(reads), int(nbytes), None if float(held) < 0 else float(held))
