"""What tests of local files need: the page cache emptied, and children that are somebody else or see other mounts."""

import ctypes
import errno
import os
import pickle
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import pytest

from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache

T = TypeVar("T")

STRANGER: Final = 65534
"""The user id of nobody in particular."""

COLD_PAGES: Final = 64
"""Of the fixture `cold_file`."""

NO_SUCH_CALL: Final = 99_999
"""A system call number that no kernel knows: it answers ENOSYS, as an older one does to cachestat."""


def by_mincore(fd: int, status: os.stat_result) -> PageCache:
    """Ask as on a kernel without cachestat."""
    return PageCache(fd, status, NO_SUCH_CALL)


def cached_bytes(path: str | os.PathLike[str], offset: int = 0, length: int | None = None) -> int | None:
    """Bytes of a file, or of a range of it, that are in the page cache; None where the kernel does not say."""
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        return PageCache(fd, status).cached_bytes(offset, status.st_size - offset if length is None else length)
    finally:
        os.close(fd)


def evict(path: str | os.PathLike[str]) -> None:
    """Drop a file from the page cache, as far as the kernel does so."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def require_evicted(path: str | os.PathLike[str]) -> None:
    """Drop a file from the page cache; skip the test where it stays."""
    evict(path)
    if cached_bytes(path):
        pytest.skip(f"{path} stays in the page cache")


def cache(path: str | os.PathLike[str], offset: int = 0, length: int = -1) -> None:
    """Bring a file, or a range of it and nothing more, into the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        # Without this, readahead brings more than was asked for.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, os.fstat(fd).st_size if length < 0 else length, offset)
    finally:
        os.close(fd)


def require_local_disk(folder: Path) -> None:
    """Skip the test unless files in `folder` can be read past the page cache, and the kernel says what is in it."""
    probe = folder / "probe"
    probe.write_bytes(bytes(8192))
    fd = os.open(probe, os.O_RDONLY)
    try:
        kind = file_systems.name(fd)
        if kind not in file_systems.DIRECT:
            pytest.skip(f"{folder} is on {kind}, where direct reads are not automatic")
        if PageCache(fd, os.fstat(fd)).cached_bytes(0, 1) is None:
            pytest.skip(f"the kernel does not say what of {folder} is in the page cache")
        try:
            os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            pytest.skip(f"{folder} is on a file system without direct reads: {error}")
    finally:
        os.close(fd)


def descriptors(path: str | os.PathLike[str]) -> int:
    """How often this process has a file open."""
    where = os.path.realpath(path)
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        # The folder's own is gone again.
        with suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{fd}") == where
    return count


@contextmanager
def public_folder() -> Iterator[Path]:
    """A new folder that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def in_child(work: Callable[[], T]) -> T:
    """What `work` returns in a forked child of this process, where it may drop rights or mount what it likes.

    A fork and not a fresh interpreter, which would import torch for seconds. What the child raises fails the test;
    what it skips is skipped.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside other threads, whose locks the child could wait for.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            # Should it wait for a lock that a thread held which was not copied.
            signal.alarm(60)
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(pickle.dumps(_outcome(work)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer, "the child died"
    returned, skipped, failed = pickle.loads(answer)
    if skipped:
        pytest.skip(skipped)
    assert not failed, f"in the child:\n{failed}"
    result: T = returned
    return result


def _outcome(work: Callable[[], T]) -> tuple[T | None, str, str]:
    try:
        return work(), "", ""
    except pytest.skip.Exception as skip:
        return None, str(skip.msg), ""
    except BaseException:
        return None, "", traceback.format_exc()


def as_stranger(work: Callable[[], T]) -> T:
    """What `work` returns when done by a user who owns nothing; skips the test unless root runs it."""
    if os.geteuid():
        pytest.skip("only root can become another user")

    def drop_rights_and_work() -> T:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return work()

    return in_child(drop_rights_and_work)


def with_mount(kind: str, target: Path, options: str, work: Callable[[], T]) -> T:
    """What `work` returns where a file system of this kind is mounted on `target`, for it alone; or skips."""

    def mount_and_work() -> T:
        libc = ctypes.CDLL(None, use_errno=True)

        def check(result: int, what: str) -> None:
            if result:
                pytest.skip(f"{what}: {errno.errorcode[ctypes.get_errno()]}; this needs a container with more rights")

        maps = {"setgroups": "deny", "uid_map": f"0 {os.geteuid()} 1", "gid_map": f"0 {os.getegid()} 1"}
        new_namespaces = 0x10000000 | 0x00020000  # CLONE_NEWUSER and CLONE_NEWNS
        check(libc.unshare(new_namespaces), "cannot make namespaces")
        try:
            for name, text in maps.items():
                Path(f"/proc/self/{name}").write_text(text)
        except PermissionError as error:
            pytest.skip(f"cannot be root of a namespace: {error}")
        mounted = libc.mount(kind.encode(), os.fsencode(target), kind.encode(), 0, options.encode())
        check(mounted, f"cannot mount {kind}")
        return work()

    return in_child(mount_and_work)
