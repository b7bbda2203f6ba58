"""Local files into the page cache and out of it, without root: these files only, nobody else's."""

import os
from collections.abc import Iterable
from typing import Final

from runai_model_streamer.errors import ArgumentError, ReadError
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache

_PIECE: Final = 4 << 20

_TRIES: Final = 3
"""A page that another CPU has just touched may stay the first time."""

_LEFT: Final = 0.01
"""Most of an evicted file that may stay in the page cache, as a fraction."""


def evict(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Take these files out of the page cache: written back (fsync), then given up (posix_fadvise DONTNEED).

    Where the kernel says what is cached, that they are out of it is checked. What a disk, or the host of a virtual
    machine, keeps in memory of its own stays there.

    Raises:
        ArgumentError: the file is on a file system in memory: there is no cold for it.
        ReadError: the kernel keeps it, since another process has it open and mapped, or it is somebody else's file.
        OSError: it cannot be opened.
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
    """Read what is not in the page cache of these files, so that it is.

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
    """How much of a file is in the page cache, from 0.0 to 1.0; None where the kernel does not say.

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
        return None  # overlayfs and others count an empty cache of their own: `file_systems.DIRECT`
    status = os.fstat(fd)
    if not status.st_size:
        return 1.0
    cached = PageCache(fd, status).cached_bytes(0, status.st_size)
    # Whole pages are counted, the last one too.
    return None if cached is None else min(cached / status.st_size, 1.0)
