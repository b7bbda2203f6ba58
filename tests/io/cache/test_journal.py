"""What a crash may leave of a journal, and what counts of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.cache.journal import (
    RECORD_BYTES,
    About,
    Kind,
    Record,
    append,
    read_about,
    read_last,
    read_records,
)

ABOUT = About("s3://models/é.safetensors", '"etag"', 1 << 40)
RECORDS = [Record(Kind.HELD, number, number + 1, 2**64 - 1) for number in range(3)]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, ABOUT.packed())
    yield fd
    os.close(fd)


def begin_of(fd: int) -> int:
    found = read_about(fd)
    assert found is not None
    assert found[0] == ABOUT
    return found[1]


def test_records_are_read_as_they_were_appended(fd: int) -> None:
    begin = begin_of(fd)
    append(fd, begin, RECORDS[:2])
    append(fd, begin, RECORDS[2:])
    found, position = read_records(fd, begin)
    assert found == RECORDS
    assert read_records(fd, position) == ([], position)
    assert read_last(fd, begin) == RECORDS[-1]


@pytest.mark.parametrize("left", [1, RECORD_BYTES - 1])
def test_a_record_that_was_cut_short_counts_for_nothing_and_harms_no_other(fd: int, left: int) -> None:
    begin = begin_of(fd)
    append(fd, begin, RECORDS)
    os.ftruncate(fd, begin + 2 * RECORD_BYTES + left)
    assert read_last(fd, begin) is None
    append(fd, begin, RECORDS[:1])
    assert read_records(fd, begin)[0] == [*RECORDS[:2], RECORDS[0]]


@pytest.mark.parametrize("byte", range(0, RECORD_BYTES, 5))
def test_a_record_with_a_changed_byte_does_not_count(fd: int, byte: int) -> None:
    begin = begin_of(fd)
    append(fd, begin, RECORDS)
    place = begin + RECORD_BYTES + byte
    os.pwrite(fd, bytes([os.pread(fd, 1, place)[0] ^ 4]), place)
    assert read_records(fd, begin)[0] == [RECORDS[0], RECORDS[2]]


@pytest.mark.parametrize(
    "text", [b"", b"\0" * 4096, b"{}\n", b"[1]\n", b'{"format": 2, "url": "", "version": "", "size": 1}\n']
)
def test_what_is_no_journal_of_this_format_is_none(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(text)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_about(fd) is None
    finally:
        os.close(fd)
