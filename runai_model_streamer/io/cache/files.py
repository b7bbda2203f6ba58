"""The files of entries: opens, makes and removes them."""

import contextlib
import errno
import os
import threading
import time
from typing import Final, NamedTuple

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.cache import locks
from runai_model_streamer.io.cache.entry import Compute, Entry
from runai_model_streamer.io.cache.extents import Extents, Piece
from runai_model_streamer.io.cache.journal import About, Kind, opened, read_about, read_last, read_records
from runai_model_streamer.io.cache.names import DATA, JOURNAL

_READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_TRIES: Final = 100
_PAUSE: Final = 0.01
"""Seconds."""


def open_entry(stem: str, about: About | None, direct: DirectIO, compute: Compute, boot: int) -> Entry | None:
    """Open an entry, and make it if there is none.

    Args:
        stem: path of its files, without their ends.
        about: what object it is; None opens an entry that is there only.
        direct: whether to write past the page cache.
        compute: returns the checksum of bytes.
        boot: identifies the boot; 0 if unknown.

    Returns:
        The entry; None if there is none, or if what is there is of no use.

    Raises:
        OSError: the files cannot be opened or made.
    """
    for _ in range(_TRIES):
        opened = _open_data(stem + DATA, create=about is not None)
        if opened is None:
            return None
        fd, writable = opened
        try:
            if locks.lock(fd, locks.USERS, 1, shared=True) and _is_at(fd, stem + DATA):
                found = _about(fd, stem, about, writable)
                if found is not None:
                    entry = Entry(fd, stem, *found, writable, direct, compute, boot)
                    fd = -1
                    return entry
                return None
        finally:
            if fd >= 0:
                os.close(fd)
        time.sleep(_PAUSE)  # it is being removed
    return None


def _open_data(path: str, *, create: bool) -> tuple[int, bool] | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600), True
    except FileNotFoundError:
        if create:
            raise
        return None
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        if not os.path.exists(path):
            if create:
                raise
            return None
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), False


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _about(fd: int, stem: str, about: About | None, writable: bool) -> tuple[About, int] | None:
    """Return what the entry is of, and where its records begin. If it is new, or its files do not fit, make it."""
    found = None
    with contextlib.suppress(FileNotFoundError), opened(stem + JOURNAL) as journal:
        found = read_about(journal)
    if found is not None and os.fstat(fd).st_size == found[0].size and (about is None or _same(found[0], about)):
        return found
    if about is None or not writable:
        return None
    text = about.packed()
    temporary = f"{stem}.{os.getpid()}-{threading.get_native_id()}.new"
    made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(made, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, about.size)
        os.rename(temporary, stem + JOURNAL)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(made)
    return about, len(text)


def _same(found: About, about: About) -> bool:
    return (found.version, found.size, found.endpoint) == (about.version, about.size, about.endpoint)


class Found(NamedTuple):
    """An entry in a folder, as its files' status describes it."""

    stem: str
    """Path of its files, without their ends."""
    size: int
    """Bytes of the object."""
    disk_bytes: int
    """Bytes on the disk."""
    used_ns: int
    """When it was used last, in nanoseconds since 1970."""


def find_entries(folder: str, url: str = "") -> list[Found]:
    """Return the entries in a folder, the one that was used last first.

    Args:
        folder: the folder.
        url: what their names begin with; see `names.Name`.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    for name in os.listdir(folder):
        if name.startswith(url) and name.endswith(DATA):
            stem = f"{folder}/{name.removesuffix(DATA)}"
            with contextlib.suppress(FileNotFoundError):
                data = os.stat(stem + DATA)
                used = data.st_mtime_ns
                with contextlib.suppress(FileNotFoundError):
                    used = os.stat(stem + JOURNAL).st_mtime_ns
                found.append(Found(stem, data.st_size, data.st_blocks * 512, used))
    return sorted(found, key=lambda each: each.used_ns, reverse=True)


def about_of(stem: str) -> About | None:
    """Return what object an entry is of; None if it is gone, or of no use."""
    with contextlib.suppress(FileNotFoundError), opened(stem + JOURNAL) as journal:
        found = read_about(journal)
        return None if found is None else found[0]
    return None


def describe_entry(stem: str) -> tuple[About, int] | None:
    """Return what object an entry is of, and how many of its bytes are there; None if it is gone, or of no use."""
    found = _pieces_of(stem)
    return None if found is None else (found[0], found[1].bytes)


def holds_beginning(stem: str, length: int) -> bool:
    """Return whether an entry has its object's first bytes, or all of a shorter object."""
    found = _pieces_of(stem)
    return found is not None and found[1].has(0, min(length, found[0].size))


def _pieces_of(stem: str) -> tuple[About, Extents] | None:
    with contextlib.suppress(FileNotFoundError), opened(stem + JOURNAL) as journal:
        found = read_about(journal)
        if found is None:
            return None
        about, begin = found
        extents = Extents()
        last = read_last(journal, begin)
        if last is not None and last.kind == Kind.COMPLETE:
            extents.add(Piece(0, about.size, 0))
            return about, extents
        for kind, first, second, third in read_records(journal, begin)[0]:
            if kind == Kind.HELD and first < second <= about.size:
                extents.add(Piece(first, second, third))
            elif kind == Kind.LOST and (lost := extents.named(first, second)):
                extents.remove(lost)
        return about, extents
    return None


def remove_entry(stem: str) -> int | None:
    """Remove an entry that nobody uses. Return the bytes that it took on the disk; None if it is in use, or gone.

    Raises:
        OSError: its files cannot be removed.
    """
    try:
        fd = os.open(stem + DATA, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not locks.lock(fd, locks.USERS, 1) or not _is_at(fd, stem + DATA):
            return None
        size = os.fstat(fd).st_blocks * 512
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stem + JOURNAL)
        os.unlink(stem + DATA)
        return size
    finally:
        os.close(fd)


def promised(stem: str) -> int | None:
    """Return the bytes that the users of an entry may keep of it, at most; None if nobody uses it."""
    try:
        fd = os.open(stem + DATA, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not locks.is_locked(fd, locks.USERS, 1):
            return None
        size = os.fstat(fd).st_size
        if not locks.is_locked(fd, locks.KEEPING, 1):
            return size
    finally:
        os.close(fd)
    with contextlib.suppress(OSError), opened(stem + JOURNAL) as journal:
        found = read_about(journal)
        records = read_records(journal, found[1])[0] if found else []
        return next((record.first for record in reversed(records) if record.kind == Kind.PROMISED), size)
    return size
