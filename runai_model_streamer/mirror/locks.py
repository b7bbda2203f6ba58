"""One process, and one thread of it, at a time."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def locked(fd: int, path: str) -> Iterator[bool]:
    """Hold the lock of an open file or folder, as soon as whoever else does lets go of it.

    A process that dies lets go. Processes of other machines are kept out only where the file system says so (NFS 4
    does, for files). Gives False, without waiting, where it knows no such locks.
    """
    held = True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("%s: waiting for another process, which is pulling files", path)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        # A folder on NFS, which locks only what is open for writing, gives EBADF.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _log.debug("%s: no locks here: %s", path, error)
        held = False
    try:
        yield held
    finally:
        if held:
            # Not by closing it: a forked child may have the same open file.
            fcntl.flock(fd, fcntl.LOCK_UN)
