"""The limits of this process's control groups. In a container they apply, not the machine's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from runai_model_streamer.io.kernel_files import read_kernel_file

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_NO_LIMIT: Final = 1 << 60
"""Version 1 writes a number as large as this for no limit."""


class Cgroup(NamedTuple):
    """One control group."""

    folder: str
    unified: bool
    """Whether it is cgroup v2, whose files have other names."""

    def number(self, name: str) -> int | None:
        """Return the number in one of its files; None if the file is missing or says "max"."""
        try:
            return int(self.read(name))
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> str:
        """Return the text of one of its files. Raises `OSError` if there is none."""
        return read_kernel_file(f"{self.folder}/{name}")

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the group may use; None for no limit."""
        limit = self.number("memory.max" if self.unified else "memory.limit_in_bytes")
        return limit if limit is not None and limit < _NO_LIMIT else None

    @property
    def memory_usage(self) -> int | None:
        """Bytes in use, with the page cache; None if unknown."""
        return self.number("memory.current" if self.unified else "memory.usage_in_bytes")


def cgroups(controller: str, proc: Path = _PROC, mounted: Path = _CGROUPS) -> Iterator[Cgroup]:
    """Yield this process's control group for a controller ("memory", "cpu"), and its ancestors. Each has its limits.

    Folders are strings: each load comes here before its first read, and with `Path` it took three times as long.
    """
    try:
        lines = read_kernel_file(f"{proc}/self/cgroup").splitlines()
    except OSError:
        return
    root = f"{mounted}"
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folder, unified = f"{root}{name}", True
        elif controller in controllers.split(","):
            folder, unified = f"{root}/{controller}{name}", False
        else:
            continue
        folder = folder.rstrip("/")
        # In a container the path may be the host's. The files of the container's own group are then at the top.
        while len(folder) >= len(root):
            yield Cgroup(folder, unified)
            folder = folder.rpartition("/")[0]


def usable_cpus(proc: Path = _PROC, mounted: Path = _CGROUPS) -> int:
    """Return the number of CPUs that this process may use, by its affinity and its cgroups' CPU quotas."""
    cpus = len(os.sched_getaffinity(0))
    for group in cgroups("cpu", proc, mounted):
        quota = _quota(group)
        if quota is not None:
            cpus = min(cpus, max(round(quota), 1))
    return cpus


def _quota(group: Cgroup) -> float | None:
    """Return the quota in CPU seconds per second; None for no limit."""
    if group.unified:
        try:
            allowed, period = map(int, group.read("cpu.max").split())
        except (OSError, ValueError):  # "max" is not a number
            return None
        return allowed / period if period else None
    share = group.number("cpu.cfs_quota_us")
    if share is None or share <= 0:  # -1: no limit
        return None
    every = group.number("cpu.cfs_period_us")
    return share / every if every else None
