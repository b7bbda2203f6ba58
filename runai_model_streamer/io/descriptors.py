"""How many connections this process may still open, by its limit of file descriptors (`ulimit -n`)."""

import os
import resource
from typing import Final

_EACH: Final = 6
"""Descriptors of one connection at most: its socket, the handle by which it is ended, libcurl's two that wake it, and
two while a name is resolved."""

_MANY: Final = 1 << 16
"""Descriptors in use that a process has at most, most likely; counting them takes as long as there are."""

_SPARE: Final = 16
"""Descriptors left for everything else."""


def at_most_allowed(wanted: int) -> int:
    """Return how many connections of `wanted` fit below the limit now; at least 1."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit > wanted * _EACH + _MANY:
        return wanted
    try:
        in_use = len(os.listdir("/proc/self/fd"))
    except OSError:
        in_use = limit  # too many to open one more
    return min(max((limit - in_use - _SPARE) // _EACH, 1), wanted)
