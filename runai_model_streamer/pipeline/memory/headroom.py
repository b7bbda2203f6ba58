"""How much memory this process may still take before the machine or its cgroup runs out."""

import logging
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

RESERVE: Final = 1 << 30
"""Bytes of the machine's or cgroup's memory that are left alone."""

CHECK_EVERY: Final = 512 << 20
"""Bytes of fresh memory after which the machine's is looked at again: asking takes a millisecond, all readers wait."""

CHECK_SHARE: Final = 16
"""Or this part of what is left, if that is more: several processes may take as much meanwhile."""

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Headroom:
    """Whether the machine has room for fresh memory, looked at now and then; said in the log when it first has not."""

    def __init__(self) -> None:
        self._allowance = 0
        self._said_low = False

    def lacks(self, size: int) -> bool:
        """Whether taking `size` bytes would leave less than `RESERVE`."""
        if self._allowance >= size:
            return False
        left = available_bytes()
        spare = CHECK_EVERY if left is None else left - RESERVE - size
        if spare >= 0:
            self._allowance = size + min(spare, max(CHECK_EVERY, spare // CHECK_SHARE))
            return False
        if not self._said_low:
            self._said_low = True
            _log.warning(
                "Only %d MiB of memory left: reading ahead no further until tensors are dropped. "
                "RUNAI_STREAMER_MEMORY_LIMIT sets a limit of its own.",
                (left or 0) >> 20,
            )
        return True

    def took(self, size: int) -> None:
        """So many bytes have been taken."""
        self._allowance -= size


def available_bytes() -> int | None:
    """Bytes left, counting what the kernel would reclaim from the page cache; None when nothing tells."""
    known = [value for value in (_machine(), *_cgroups()) if value is not None]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroups() -> list[int | None]:
    """What is left in this process's cgroup and in those above it, each of which may have a limit of its own."""
    left: list[int | None] = []
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            folder = _CGROUPS / name.lstrip("/")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            folder = _CGROUPS / "memory" / name.lstrip("/")
        else:
            continue
        # Inside a container the path may be the host's; the files of the container's own group are then at the top.
        while folder.is_relative_to(_CGROUPS):
            left.append(_left_in(folder, *names))
            folder = folder.parent
    return left


def _left_in(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    try:
        limit = int((folder / limit_name).read_text())  # "max" is no number, and no limit
        usage = int((folder / usage_name).read_text())
        reclaimable = 0
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == reclaimable_name:
                reclaimable = int(value)
    except (OSError, ValueError):
        return None
    return max(limit - usage + reclaimable, 0)
