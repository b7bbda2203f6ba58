"""Moves given files into the page cache and out of it. Needs no root rights and touches no other files."""

import os
from collections.abc import Iterable
from typing import Final

from runai_model_streamer.errors import ArgumentError, ReadError
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache

_PIECE: Final = 4 << 20

_TRIES: Final = 3
"""Attempts to evict a file. A page that another CPU has just touched may survive the first."""

_LEFT: Final = 0.01
"""The largest fraction of an evicted file that may stay in the page cache."""


def evict(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Evict these files from the page cache: write them back (fsync), then drop them (posix_fadvise DONTNEED).

    The result is checked if the kernel reports cached pages. Caches of the disk, or of a virtual machine's host, keep
    their contents.

    Raises:
        ArgumentError: a file is on an in-memory file system, so it is never cold.
        ReadError: the kernel keeps a file, since another process has it mapped, or another user owns it.
        OSError: a file cannot be opened.
    """
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kind = file_systems.name(fd)
            if kind in file_systems.IN_MEMORY:
                raise ArgumentError(
                    f"is on {kind}, which is memory",
                    where=os.fspath(path),
                    remedy="choose a folder on a disk",
                    sep=": ",
                )
            left: float | None = 1.0
            for _ in range(_TRIES):
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                left = _cached(fd)
                if left is None or left <= _LEFT:
                    break
            else:
                raise ReadError(
                    f"{left:.0%} of it stays in the page cache",
                    where=os.fspath(path),
                    remedy="close what else has it mapped, or measure a copy of your own",
                )
        finally:
            os.close(fd)


def warm(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Read these files into the page cache, unless they are in it.

    Raises:
        OSError: a file cannot be read.
    """
    buffer = memoryview(bytearray(_PIECE))
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if file_systems.name(fd) in file_systems.IN_MEMORY or _cached(fd) == 1.0:
                continue
            offset = 0
            while got := os.preadv(fd, [buffer], offset):
                offset += got
        finally:
            os.close(fd)


def cached_fraction(path: str | os.PathLike[str]) -> float | None:
    """Return the fraction of a file in the page cache, from 0.0 to 1.0; None if the kernel does not report it.

    Raises:
        OSError: the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return 1.0 if file_systems.name(fd) in file_systems.IN_MEMORY else _cached(fd)
    finally:
        os.close(fd)


def _cached(fd: int) -> float | None:
    if file_systems.name(fd) not in file_systems.DIRECT:
        return None  # overlayfs and others report an empty cache of their own: see `file_systems.DIRECT`
    status = os.fstat(fd)
    if not status.st_size:
        return 1.0
    cached = PageCache(fd, status).cached_bytes(0, status.st_size)
    # The count is of whole pages, so the last one may exceed the file.
    return None if cached is None else min(cached / status.st_size, 1.0)
