"""The block device under a file, as the kernel describes it, and the number of readers that keep it busy."""

import os
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

STREAMS: Final = 16
"""Readers to begin with for each disk (benchmarks/RUNS.md)."""

_SYS: Final = Path("/sys")
_MOUNTS: Final = Path("/proc/self/mountinfo")


class Device(NamedTuple):
    """One block device, or several that form an array."""

    name: str
    members: int
    """Number of disks that work in parallel."""
    seeks: bool
    """Whether they are hard disks, whose heads have to move between reads."""

    @property
    def streams(self) -> int:
        """Readers to begin with."""
        return self.members if self.seeks else STREAMS * self.members


UNKNOWN: Final = Device("unknown", 1, seeks=False)


@cache
def device_of(number: int, sys: Path = _SYS, mounts: Path = _MOUNTS) -> Device:
    """Return the device with this number (`os.stat_result.st_dev`); `UNKNOWN` if the kernel does not describe it.

    Args:
        number: of the device, or of a btrfs, which has its own number.
        sys: where sysfs is mounted.
        mounts: the table of mounts.
    """
    major, minor = os.major(number), os.minor(number)
    try:
        if not major:
            major, minor = _mounted(f"{major}:{minor}", mounts)
        folder = _whole((sys / "dev" / "block" / f"{major}:{minor}").resolve(strict=True))
        members = _members(folder)
        return Device(folder.name, sum(map(_width, members)), all(map(_seeks, members)))
    except (OSError, ValueError):
        return UNKNOWN


def _mounted(number: str, mounts: Path) -> tuple[int, int]:
    """Return the numbers of the block device that is mounted under this number."""
    for line in mounts.read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            source = os.stat(fields[fields.index("-") + 2]).st_rdev
            return os.major(source), os.minor(source)
    raise ValueError(f"nothing is mounted as {number}")


def _whole(folder: Path) -> Path:
    """Return the disk of a partition, or the disk itself."""
    return folder.parent if (folder / "partition").exists() else folder


def _members(folder: Path) -> list[Path]:
    """Return the disks under a device that combines several (md, LVM), or else the device itself."""
    slaves = folder / "slaves"
    below = sorted(slaves.iterdir()) if slaves.is_dir() else []
    return [member for each in below for member in _members(_whole(each.resolve()))] or [folder]


def _width(disk: Path) -> int:
    """Return the number of disks behind a hardware array: the pieces of its stripe. 1 for a plain disk."""
    minimum, optimal = (int((disk / "queue" / name).read_text()) for name in ("minimum_io_size", "optimal_io_size"))
    # Otherwise the optimal size is only a preference of the disk.
    return optimal // minimum if minimum >= _STRIPE and optimal % minimum == 0 and optimal > minimum else 1


_STRIPE: Final = 16 << 10
"""Bytes of the smallest piece of a stripe. A disk's own block is smaller."""


def _seeks(disk: Path) -> bool:
    # A virtual machine's disk claims to rotate, whatever is behind it.
    return not disk.name.startswith(("vd", "xvd")) and (disk / "queue" / "rotational").read_text().strip() == "1"
