"""Writes bytes to a file at their offset, past the page cache where that is possible."""

import errno
import os
from typing import Final

import numpy as np

from runai_model_streamer.ranges import PAGE, round_down, round_up

_REFUSED: Final = (errno.EINVAL, errno.EOPNOTSUPP)


def write_at(fd: int, start: int, view: memoryview, *, direct: bool) -> bool:
    """Write bytes. Return whether to write past the page cache from now on, too: not where that was refused.

    Args:
        fd: open for writing.
        start: the first byte's offset.
        view: the bytes. Whole pages of them are written past the page cache if their place in memory allows it.
        direct: whether to try that.

    Raises:
        OSError: not all of it was written.
    """
    first, last = round_up(start, PAGE), round_down(start + len(view), PAGE)
    address = np.frombuffer(view, np.uint8).ctypes.data
    if not direct or first >= last or (address - start) % PAGE:
        _write(fd, start, view)
        return direct
    try:
        past = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        try:
            _write(past, first, view[first - start : last - start])
        finally:
            os.close(past)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _write(fd, start, view)
        return False
    _write(fd, start, view[: first - start])
    _write(fd, last, view[last - start :])
    return True


def _write(fd: int, offset: int, view: memoryview) -> None:
    landed = 0
    while landed < len(view):
        landed += os.pwrite(fd, view[landed:], offset + landed)
