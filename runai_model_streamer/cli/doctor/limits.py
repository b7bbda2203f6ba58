"""The checks of `doctor` for what this process may use: CPUs, memory, locked memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.output import counted
from runai_model_streamer.io.cgroups import cgroups, usable_cpus
from runai_model_streamer.settings.units import limit_text, size_text

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def limits(proc: Path = _PROC, mounted: Path = _CGROUPS) -> Iterator[Check]:
    """Check the CPUs and the memory that the machine and the control groups leave this process.

    Args:
        proc: where procfs is mounted.
        mounted: where the control groups are mounted.
    """
    cpus, all_cpus = usable_cpus(proc, mounted), os.cpu_count() or 1
    few = f" of the machine's {all_cpus} (by affinity or a control group)" if cpus < all_cpus else ""
    yield Check("cpus", "ok", counted(cpus, "CPU") + few)
    yield _memory(proc, mounted)
    yield locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])


def _memory(proc: Path, mounted: Path) -> Check:
    known = [(group.memory_limit, group.memory_usage) for group in cgroups("memory", proc, mounted)]
    found = [(allowed, taken) for allowed, taken in known if allowed is not None]
    if not found:
        return Check("memory", "ok", "no limit of a control group")
    allowed, taken = min(found, key=lambda each: each[0])
    using = "" if taken is None else f", {size_text(taken)} in use, page cache included"
    return Check(
        "memory",
        "ok",
        f"a control group's limit of {limit_text(allowed)}{using}",
        "tensors that a program keeps need room in it; RUNAI_STREAMER_MEMORY_LIMIT bounds the rest",
    )


def locked_memory(limit: int) -> Check:
    """Check the limit of memory that the process may lock; -1 for none."""
    if limit == resource.RLIM_INFINITY:
        return Check("locked memory", "ok", "no limit")
    return Check(
        "locked memory",
        "ok",
        f"at most {limit_text(limit)}",
        "networks with RDMA need more: ulimit -l unlimited, or the container's memlock setting",
    )
