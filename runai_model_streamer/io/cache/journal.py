"""The file that says what of an object a cache has: what object it is, then records of 32 bytes.

A record that a crash has cut short, or whose bytes are not what was written, does not count (each has a checksum).
"""

import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from typing import Any, Final, NamedTuple

import orjson

from runai_model_streamer.io.cache import locks
from runai_model_streamer.ranges import PAGE, round_up

_RECORD: Final = struct.Struct("<IQQQ")
_CHECK: Final = struct.Struct("<I")
RECORD_BYTES: Final = _RECORD.size + _CHECK.size

_FORMAT: Final = 1
_LONGEST: Final = 1 << 16
"""Bytes of the description at most."""


class Kind(IntEnum):
    """What a record says. The numbers are those in the files."""

    HELD = 1
    """The cache has the bytes from the first number to the second. The third is their checksum."""
    LOST = 2
    """It no longer does: they were damaged."""
    SEALED = 3
    """The bytes were right, in the boot of the first number, when the data file had been written to (the second) and
    changed (the third) last, in nanoseconds since 1970."""
    COMPLETE = 5
    """As SEALED, and all bytes of the object are here. As the last record it makes the others needless."""
    PROMISED = 4
    """Whoever uses the object now may keep this many bytes of it (the first number)."""


class Record(NamedTuple):
    """One record."""

    kind: int
    first: int
    second: int = 0
    third: int = 0

    def packed(self) -> bytes:
        """Return the bytes of the record."""
        body = _RECORD.pack(*self)
        return body + _CHECK.pack(zlib.crc32(body))


class About(NamedTuple):
    """What object it is."""

    url: str
    """Without user and query."""
    version: str
    """The ETag."""
    size: int
    """Bytes of the object."""
    endpoint: str = ""
    """What tells its store from another one with equal URLs; without user. "" for the usual one."""

    def packed(self) -> bytes:
        """Return the beginning of the file: a line of JSON, filled up to whole pages."""
        line = orjson.dumps({"format": _FORMAT, **self._asdict()})
        return line.ljust(round_up(len(line) + 1, PAGE) - 1) + b"\n"


@cache
def boot_id() -> int:
    """Return a number that each boot of the machine has for itself; 0 if it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return int(file.read().replace("-", "")[:16], 16)
    except (OSError, ValueError):
        return 0


@contextmanager
def opened(path: str, *, write: bool = False) -> Iterator[int]:
    """Give the descriptor of a journal, and close it.

    Raises:
        OSError: it cannot be opened; `FileNotFoundError` if there is none.
    """
    fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_about(fd: int) -> tuple[About, int] | None:
    """Return what object a journal is of, and where its records begin; None for what is no journal."""
    line, newline, _ = os.pread(fd, _LONGEST, 0).partition(b"\n")
    try:
        found: Any = orjson.loads(line)
        about = About(found["url"], found["version"], found["size"], found.get("endpoint", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    known = found.get("format") == _FORMAT and isinstance(about.size, int)
    return (about, len(line) + 1) if newline and known else None


def read_last(fd: int, begin: int) -> Record | None:
    """Return the last record of a journal whose records begin at `begin`; None if there is none that is whole."""
    size = os.fstat(fd).st_size - begin
    if size < RECORD_BYTES or size % RECORD_BYTES:
        return None
    return next(_parsed(os.pread(fd, RECORD_BYTES, begin + size - RECORD_BYTES)), None)


def read_records(fd: int, position: int) -> tuple[list[Record], int]:
    """Return the records from a position on, and the position after the last whole one."""
    size = os.fstat(fd).st_size
    text = os.pread(fd, size - position, position) if size > position else b""
    whole = len(text) - len(text) % RECORD_BYTES
    return list(_parsed(text[:whole])), position + whole


def _parsed(text: bytes) -> Iterator[Record]:
    for start in range(0, len(text), RECORD_BYTES):
        body = text[start : start + _RECORD.size]
        if text[start + _RECORD.size : start + RECORD_BYTES] == _CHECK.pack(zlib.crc32(body)):
            yield Record(*_RECORD.unpack(body))


class Journal:
    """The journal of an entry, as one who uses the entry reads and writes it. `append` is thread safe.

    Args:
        path: the file.
        begin: where its records begin.
        fd: the data file of the entry, on which locks are held.
    """

    def __init__(self, path: str, begin: int, fd: int) -> None:
        self._path, self._begin, self._fd = path, begin, fd
        self._position = begin
        self._appending = threading.Lock()

    def complete(self) -> Record | None:
        """Return the last record, if it says that all is there; None otherwise. Then `news` has what comes later."""
        with opened(self._path) as fd:
            last, size = read_last(fd, self._begin), os.fstat(fd).st_size
        if last is None or last.kind != Kind.COMPLETE:
            return None
        self._position = size
        return last

    def news(self, *, again: bool = False) -> list[Record]:
        """Return the records that are new since the last call, or all of them `again`."""
        with opened(self._path) as fd:
            records, self._position = read_records(fd, self._begin if again else self._position)
        return records

    def append(self, records: list[Record]) -> None:
        """Append records.

        Raises:
            OSError: they cannot be written. A part of them may have been.
        """
        with self._appending, opened(self._path, write=True) as fd:
            try:
                locks.await_lock(self._fd, locks.APPENDING, 1)
                append(fd, self._begin, records)
            finally:
                locks.unlock(self._fd, locks.APPENDING, 1)


def append(fd: int, begin: int, records: list[Record]) -> None:
    """Append records. The caller holds the lock of the journal.

    Args:
        fd: the journal, open for writing.
        begin: where its records begin.
        records: what to append.

    Raises:
        OSError: they cannot be written. A part of them may have been.
    """
    text = b"".join(record.packed() for record in records)
    # After what a writer that died may have left of a record.
    position = begin + round_up(max(os.fstat(fd).st_size - begin, 0), RECORD_BYTES)
    if os.pwrite(fd, text, position) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
