"""Reads the small files of procfs, sysfs and control groups."""

import os
from pathlib import Path
from typing import Final

_MOST: Final = 64 << 10
"""Bytes that such a file has at most. The kernel makes all of it for one read."""


def read_kernel_file(path: str | Path) -> str:
    """Return the file's text.

    It takes three system calls, where `open` takes nine. Each gives the GIL back, and waits for it again: while readers
    are busy, some hundred of them took milliseconds, in which no read began (benchmarks/RUNS.md).

    Raises:
        OSError: it is missing, or not readable.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST).decode(errors="surrogateescape")
    finally:
        os.close(fd)
