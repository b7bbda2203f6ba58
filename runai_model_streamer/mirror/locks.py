"""A lock between processes."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def locked(fd: int, path: str) -> Iterator[bool]:
    """Wait for the lock of an open file or folder, and hold it in the context.

    A process that dies releases its lock. The lock excludes processes on other machines only on file systems that share
    locks (NFS 4 does, for files). If the file system has no locks, yield False at once.
    """
    held = True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("%s: waiting for another process, which is pulling files", path)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        # NFS locks only files that are open for writing. A folder gives EBADF.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _log.debug("%s: no locks here: %s", path, error)
        held = False
    try:
        yield held
    finally:
        if held:
            # Closing the file is not enough: a forked child may have it open too.
            fcntl.flock(fd, fcntl.LOCK_UN)
