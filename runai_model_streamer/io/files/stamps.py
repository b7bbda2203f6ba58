"""How a file that is written to is recognised."""

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """Attributes that change when a file is written."""

    size: int
    modified: int
    """Modification time in nanoseconds. A writer may set it back."""
    changed: int
    """Change time in nanoseconds. The kernel sets it with every change of contents or attributes."""
    links: int


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file with this status."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink)
