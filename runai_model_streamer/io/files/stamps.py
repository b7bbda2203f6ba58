"""How a file that is written to is recognised."""

import ctypes
import os
import struct
from typing import Final, NamedTuple

from runai_model_streamer.io.libc import libc

_EMPTY_PATH: Final = 0x1000
"""AT_EMPTY_PATH: the descriptor itself is meant."""
_FIELDS: Final = 0x2C0
"""STATX_MTIME, STATX_CTIME and STATX_SIZE."""
_SIZE: Final = slice(40, 48)
_TIMES: Final = slice(96, 128)
"""Of a struct statx: the times of the last change and of the last modification."""
_SECOND: Final = 10**9


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


class Glance:
    """Tells without a switch of threads whether an open local file's size and times are as they were.

    `os.fstat` releases the GIL. A thread that waits for it then wakes, mostly to find it taken again: with 16 readers
    a fifth of all switches of a load (benchmarks/RUNS.md). This call keeps the GIL, so it is for file systems
    that answer from memory. Any thread may call the methods.

    Args:
        fd: the file.
        stamp: how it was when it was opened.
        local: whether its file system answers from memory. For others, each answer is that the file may have changed.
    """

    def __init__(self, fd: int, stamp: Stamp, *, local: bool) -> None:
        self._fd = fd
        self._answer = (ctypes.c_char * 256)()  # a struct statx, the same on every architecture
        self._pointer = ctypes.byref(self._answer)
        self._statx = getattr(libc(), "statx", None) if local else None
        self.expect(stamp)

    def expect(self, stamp: Stamp) -> None:
        """Compare the file with this stamp from now on."""
        times = (divmod(time, _SECOND) for time in (stamp.changed, stamp.modified))
        self._expected = struct.pack("=Q", stamp.size) + b"".join(struct.pack("=qIi", *time, 0) for time in times)

    @property
    def may_differ(self) -> bool:
        """Whether the file may have another stamp now."""
        statx = self._statx
        if statx is None:
            return True
        if statx(self._fd, b"", _EMPTY_PATH, _FIELDS, self._pointer):
            self._statx = None  # a seccomp filter forbids it
            return True
        # One copy: another thread's answer may replace this one, as new as this or newer.
        raw = self._answer.raw
        return raw[_SIZE] + raw[_TIMES] != self._expected
