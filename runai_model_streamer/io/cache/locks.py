"""Locks of single ranges of an open file, which end with whoever holds them.

They are Linux's locks of open file descriptions. They exclude other processes, and other descriptions of one process.
The kernel drops them when the last descriptor is closed, so at the end of a process, however it ends.
"""

import errno
import fcntl
import struct
from typing import Final

USERS: Final = 1 << 62
APPENDING: Final = USERS + 1
KEEPING: Final = USERS + 2
PARTING: Final = USERS + 3
"""Bytes of an entry's data file, far beyond its end, that are locked: by all who use the entry, by who appends to its
journal, by who may write to an entry that there is no room for all of, and by who writes a part of a page."""

_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` of 64-bit Linux: type, whence, start, length, pid."""


def lock(fd: int, start: int, length: int, *, shared: bool = False) -> bool:
    """Lock a range if nobody else holds a lock that conflicts. Return whether it is locked.

    Args:
        fd: open for reading (`shared`) or for writing.
        start: first byte, which need not exist.
        length: bytes; at least one.
        shared: whether others may hold shared locks of the range.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def await_lock(fd: int, start: int, length: int) -> None:
    """Lock a range, once nobody else does. Only for locks that are held for microseconds."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, start, length))


def unlock(fd: int, start: int, length: int) -> None:
    """Unlock a range, or a part of one. A forked child's descriptor holds no lock then, either."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, length))


def is_locked(fd: int, start: int, length: int) -> bool:
    """Return whether anybody else holds a lock in the range, shared or not."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, start, length))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, 0, start, length, 0)
