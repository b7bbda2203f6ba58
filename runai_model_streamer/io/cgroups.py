"""The limits of this process's control groups. In a container they apply, not the machine's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Cgroup(NamedTuple):
    """One control group."""

    folder: Path
    unified: bool
    """Whether it is cgroup v2, whose files have other names."""

    def number(self, name: str) -> int | None:
        """Return the number in one of its files; None if the file is missing or says "max"."""
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return None

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the group may use; None for no limit. Version 1 writes a huge number for that."""
        return self.number("memory.max" if self.unified else "memory.limit_in_bytes")

    @property
    def memory_usage(self) -> int | None:
        """Bytes in use, with the page cache; None if unknown."""
        return self.number("memory.current" if self.unified else "memory.usage_in_bytes")


def cgroups(controller: str, proc: Path = _PROC, mounted: Path = _CGROUPS) -> Iterator[Cgroup]:
    """Yield this process's control group for a controller ("memory", "cpu"), and its ancestors. Each has its limits."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folder, unified = mounted / name.lstrip("/"), True
        elif controller in controllers.split(","):
            folder, unified = mounted / controller / name.lstrip("/"), False
        else:
            continue
        # In a container the path may be the host's. The files of the container's own group are then at the top.
        while folder.is_relative_to(mounted):
            yield Cgroup(folder, unified)
            folder = folder.parent


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
            allowed, period = map(int, (group.folder / "cpu.max").read_text().split())
        except (OSError, ValueError):  # "max" is not a number
            return None
        return allowed / period if period else None
    allowed_or_not, period_or_not = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    if allowed_or_not is None or not period_or_not or allowed_or_not <= 0:
        return None
    return allowed_or_not / period_or_not
