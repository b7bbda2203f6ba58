"""The memory that this process may still allocate before the machine or its cgroup runs out."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runai_model_streamer.io.cgroups import Cgroup, cgroups
from runai_model_streamer.io.kernel_files import read_kernel_file
from runai_model_streamer.settings.units import size_text

_log = logging.getLogger(__name__)

RESERVE: Final = 1 << 30
"""Bytes of the machine's or cgroup's memory that loads leave free."""

CHECK_EVERY: Final = 512 << 20
"""Bytes of fresh memory between two checks. Readers wait for a check."""

CHECK_SHARE: Final = 16
"""Or 1/16 of what is left, if more, since other processes allocate too."""

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Headroom:
    """Checks now and then whether the machine has room for fresh memory. Warns in the log the first time it has not.

    Args:
        available: returns the bytes left; None if unknown.
        ahead: check at once, before there are readers: they would wait for it, and it for the GIL in each system call.
    """

    def __init__(self, available: Callable[[], int | None] | None = None, *, ahead: bool = False) -> None:
        self._available = available_bytes if available is None else available
        self._allowance = 0
        self._said_low = False
        left = self._available() if ahead else None
        if left is not None and left > RESERVE:
            self._allow(0, left - RESERVE)

    def lacks(self, size: int) -> bool:
        """Return whether allocating `size` bytes would leave less than `RESERVE`."""
        if self._allowance >= size:
            return False
        left = self._available()
        spare = CHECK_EVERY if left is None else left - RESERVE - size
        if spare >= 0:
            self._allow(size, spare)
            return False
        if not self._said_low:
            self._said_low = True
            _log.warning(
                "Only %s of memory left: reading ahead no further until tensors are dropped. "
                "RUNAI_STREAMER_MEMORY_LIMIT sets a limit of its own.",
                size_text(left or 0),
            )
        return True

    def _allow(self, size: int, spare: int) -> None:
        self._allowance = size + min(spare, max(CHECK_EVERY, spare // CHECK_SHARE))

    def took(self, size: int) -> None:
        """Record that `size` bytes have been allocated."""
        self._allowance -= size


def available_bytes(proc: Path = _PROC, folder: Path = _CGROUPS) -> int | None:
    """Return the bytes left, including what the kernel would reclaim from the page cache; None if unknown.

    Args:
        proc: where procfs is mounted.
        folder: where control groups are mounted.
    """
    known = [value for value in (_machine(proc), *map(_left_in, cgroups("memory", proc, folder))) if value is not None]
    return min(known, default=None)


def _machine(proc: Path) -> int | None:
    try:
        for line in read_kernel_file(f"{proc}/meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _left_in(group: Cgroup) -> int | None:
    limit = group.memory_limit
    usage = None if limit is None else group.memory_usage
    if limit is None or usage is None:
        return None
    reclaimable, reclaimable_name = 0, "inactive_file" if group.unified else "total_inactive_file"
    try:
        for line in group.read("memory.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == reclaimable_name:
                reclaimable = int(value)
    except (OSError, ValueError):
        return None
    return max(limit - usage + reclaimable, 0)
