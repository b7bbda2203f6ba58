"""A lock that lets one thread of one process in at a time."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def locked(fd: int, path: str) -> Iterator[bool]:
    """Wait for the lock of an open file or folder, and hold it in the context.

    A process that dies releases it. It keeps processes of other machines out only on file systems that share locks (NFS
    4 does, for files). Gives False, without waiting, where the file system has no such locks.
    """
    held = True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("%s: waiting for another process, which is pulling files", path)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        # NFS locks only what is open for writing: a folder gives EBADF.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _log.debug("%s: no locks here: %s", path, error)
        held = False
    try:
        yield held
    finally:
        if held:
            # Closing would not do: a forked child may have the same open file.
            fcntl.flock(fd, fcntl.LOCK_UN)
