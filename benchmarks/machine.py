"""The machine that the figures are from: described for RESULTS.md, and its memory made ready."""

from __future__ import annotations

import datetime
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
LEFT_FREE = 1024 * MIB


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _mount_of(path: Path) -> tuple[str, str]:
    """The device and the file system's type under `path`."""
    best = ("", "unknown", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1], best[2]


def describe(folder: Path) -> list[tuple[str, str]]:
    """What somebody who compares figures must know; `folder` is where the checkpoints are."""
    device, kind = _mount_of(folder.resolve())
    total = int(_field("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return [
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores"),
        ("memory", f"{total:.1f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("checkpoints on", f"{kind} on {device}"),
        ("transparent huge pages", huge_pages.read_text().strip() if huge_pages.exists() else "none"),
        ("load average before", f"{os.getloadavg()[0]:.2f}"),
        ("Python", platform.python_version()),
    ]


def prime_memory(size: int) -> None:
    """Touch `size` bytes of free memory in a process that then ends, so that the host has given them.

    A virtual machine gets memory from its host at the first touch, and one whose balloon reports free pages gives it
    back within seconds of being freed: here, reading 3.9 GB into fresh memory took 0.64 s (1.2 CPU seconds) right
    after this, and 4 to 6 s (5.6 CPU seconds) once the memory had been free for 30 s. That is the host's speed, and
    falls on whichever loader happens to come late. Only memory that is free is taken: the page cache stays.
    """
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-m", "benchmarks.machine", str(size)], cwd=root, check=True)


def _touch(size: int) -> None:
    free = int(_field("/proc/meminfo", "MemFree").split()[0]) * 1024
    size = min(size, free - LEFT_FREE) // mmap.PAGESIZE * mmap.PAGESIZE
    if size <= 0:
        return
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1


if __name__ == "__main__":
    _touch(int(sys.argv[1]))
