"""Reads and writes bytes of a file at their offset, past the page cache where that is possible, and allocates room."""

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final, TypeAlias

import numpy as np

from runai_model_streamer.io.libc import libc
from runai_model_streamer.ranges import PAGE, ByteRange, round_down, round_up

Alone: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]
"""Returns what keeps other threads and processes from a part of their work."""

_REFUSED: Final = (errno.EINVAL, errno.EOPNOTSUPP)

_COPY: Final = 1 << 20
"""Bytes that are copied at a time."""

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
"""Modes of fallocate(2)."""


def read_at(fd: int, start: int, view: memoryview) -> None:
    """Read bytes through the page cache.

    Raises:
        OSError: they cannot be read.
        EOFError: the file is shorter.
    """
    landed = 0
    while landed < len(view):
        count = os.preadv(fd, [view[landed:]], start + landed)
        if not count:
            raise EOFError(f"the cached file ends at byte {start + landed}")
        landed += count


def write_at(fd: int, start: int, view: memoryview, alone: Alone, *, direct: bool) -> bool:
    """Write bytes. Return whether to write past the page cache from now on, too: not where that was refused.

    Args:
        fd: open for writing.
        start: the first byte's offset.
        view: the bytes. Past the page cache they are copied unless their place in its page is the same in memory.
        alone: keeps others from writing parts of pages meanwhile.
        direct: whether to try that.

    Raises:
        OSError: not all of it was written.
    """
    end = start + len(view)
    first, last = round_up(start, PAGE), round_down(end, PAGE)
    address = np.frombuffer(view, np.uint8).ctypes.data
    if direct and first < last:
        try:
            past = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
            try:
                write_pages = write_copies if (address - start) % PAGE else _write
                write_pages(past, first, view[first - start : last - start])
                _write_part(fd, past, start, view[: first - start], alone)
                _write_part(fd, past, last, view[last - start :], alone)
            finally:
                os.close(past)
            return True
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            direct = False
    with alone() if start % PAGE or end % PAGE else contextlib.nullcontext():
        _write(fd, start, view)
    return direct


def _write_part(fd: int, past: int, start: int, part: memoryview, alone: Alone) -> None:
    """Write a part of a page past the page cache: the rest of the page is read, and written again.

    Through the page cache ext4 would let it wait for all direct writes of the file.
    """
    if not part:
        return
    page = round_down(start, PAGE)
    whole = memoryview(mmap.mmap(-1, PAGE))
    with alone():
        if os.preadv(past, [whole], page) < PAGE:  # the last page of the file is not whole
            _write(fd, start, part)
        else:
            whole[start - page : start - page + len(part)] = part
            _write(past, page, whole)


def allocate(fd: int, size: int) -> None:
    """Allocate the first `size` bytes of a file, if there is room for all of it. What is written there stays.

    ext4 writes to a hole under a lock of the file, one write at a time, and to what is allocated in parallel. Where the
    file system cannot do it, nothing is done: writes work without.
    """
    with contextlib.suppress(OSError):
        system, allocated = os.fstatvfs(fd), os.fstat(fd).st_blocks * 512
        if size - allocated <= system.f_bavail * system.f_frsize:
            _fallocate(fd, _KEEP_SIZE, ByteRange(0, size))


def free(fd: int, unused: Iterable[ByteRange]) -> None:
    """Give the whole pages of ranges of a file back to the file system. They are read as zeros from then on."""
    with contextlib.suppress(OSError):
        for span in unused:
            pages = ByteRange(round_up(span.start, PAGE), round_down(span.end, PAGE))
            if pages.size > 0:
                _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, pages)


def _fallocate(fd: int, mode: int, span: ByteRange) -> None:
    if _function()(fd, mode, span.start, span.size):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _function() -> Callable[[int, int, int, int], int]:
    """Return fallocate(2), which releases the GIL: it waits for writes in flight.

    Python's writes to every block where the file system lacks it.
    """
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, use_errno=True)
    return kind(("fallocate", libc()))


def _write(fd: int, offset: int, view: memoryview) -> None:
    landed = 0
    while landed < len(view):
        landed += os.pwrite(fd, view[landed:], offset + landed)


def write_copies(fd: int, offset: int, view: memoryview) -> None:
    """Write bytes, a part at a time, from memory that begins with a page."""
    memory = memoryview(mmap.mmap(-1, min(_COPY, len(view))))
    for start in range(0, len(view), _COPY):
        part = view[start : start + _COPY]
        # numpy copies without the GIL.
        np.copyto(np.frombuffer(memory, np.uint8, len(part)), np.frombuffer(part, np.uint8))
        _write(fd, offset + start, memory[: len(part)])
