"""What of a file is in the page cache: put it there, take it out, and prove it; and what the disk was asked for.

Every state is verified by mincore(2), which answers truly to a file's owner (and to root).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

MIB = 1 << 20
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

# The half-cached state: every other piece of this size, so that most reads and groups of a loader meet both.
HALF_PIECE = 8 * MIB

WARMING_PASSES = 10

_libc = ctypes.CDLL(None, use_errno=True)


class CacheStateError(RuntimeError):
    """The page cache could not be brought into the state that a scenario needs."""


def cached_fraction(path: Path) -> float:
    """The share of the file's pages that are in the page cache."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        # ACCESS_COPY only because ctypes wants a writable buffer to take an address: nothing is touched.
        first = ctypes.c_char.from_buffer(mapping)
        pages = -(-size // mmap.PAGESIZE)
        resident = ctypes.create_string_buffer(pages)
        failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), resident)
        del first
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore {path}")
    return resident.raw.count(1, 0, pages) / pages


def drop(files: Iterable[Path]) -> None:
    """Evict the files: by root the whole page cache goes, otherwise just these files, whose owner one must be."""
    files = tuple(files)
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3\n")
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    _require(files, 0.0, 0.001)


def warm(files: Iterable[Path]) -> None:
    """Read the files into the page cache, where they are not there yet."""
    files = tuple(files)
    # More than once: some hosts take what was not used for seconds out again (DAMON), while the rest is read.
    for _ in range(WARMING_PASSES):
        missing = [path for path in files if cached_fraction(path) < 1.0]
        for path in missing:
            _read(path, 0, path.stat().st_size, os.POSIX_FADV_SEQUENTIAL)
        if not missing:
            break
    _require(files, 0.9999, 1.0)


def halve(files: Iterable[Path]) -> None:
    """Evict the files, then read every other piece of them."""
    files = tuple(files)
    drop(files)
    for path in files:
        size = path.stat().st_size
        for start in range(0, size, 2 * HALF_PIECE):
            _read(path, start, min(start + HALF_PIECE, size), os.POSIX_FADV_RANDOM)
    _require(files, 0.45, 0.55)


def can_drop(path: Path) -> bool:
    """Whether files beside `path` can be evicted here (drop_caches is root's; eviction by the owner may work too)."""
    try:
        drop([path])
    except (OSError, CacheStateError):
        return False
    return True


def _read(path: Path, start: int, end: int, advice: int) -> None:
    buffer = memoryview(bytearray(4 * MIB))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # RANDOM keeps readahead from going past a piece's end.
        os.posix_fadvise(descriptor, 0, 0, advice)
        while start < end:
            got = os.preadv(descriptor, [buffer[: min(len(buffer), end - start)]], start)
            if not got:
                raise CacheStateError(f"{path} ended at {start}")
            start += got
    finally:
        os.close(descriptor)


def _require(files: Iterable[Path], low: float, high: float) -> None:
    for path in files:
        fraction = cached_fraction(path)
        if not low <= fraction <= high:
            raise CacheStateError(f"{path}: {fraction:.4f} of it is cached, wanted {low} to {high}")


def disk_bytes_read(path: Path) -> int | None:
    """Bytes that the block device under `path` has read since boot; None where no block device is under it."""
    device = path.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    try:
        # The third field counts sectors, which are 512 bytes here whatever the device's own are.
        return int(statistics.read_text().split()[2]) * 512
    except OSError:
        return None


def settle(seconds: float = 0.05) -> None:
    """Leave the machine a moment for what the last run's end still has it do (unmapping, writing back)."""
    time.sleep(seconds)
