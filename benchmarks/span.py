"""What one load takes, measured in the process that does it."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any


def status_kib(field: str) -> int:
    """A field of this process's /proc/self/status that is in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


def _bytes_from_storage() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise KeyError("read_bytes")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Span:
    """Wall clock, processor time, memory and reads from storage over one load."""

    def __init__(self) -> None:
        # 5 resets the resident set's high-water mark (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
        self.base_kib = status_kib("VmRSS")
        self.first_s: float | None = None
        self.from_storage = _bytes_from_storage()
        self.cpu = _cpu_seconds()
        self.start = time.perf_counter()

    def end(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.start
        cpu_s = _cpu_seconds() - self.cpu
        peak_mib = (status_kib("VmHWM") - self.base_kib) / 1024
        own_bytes = _bytes_from_storage() - self.from_storage
        return {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "first_s": self.first_s,
            "peak_mib": peak_mib,
            "own_bytes": own_bytes,
        }
