"""What tells that a file was written to since it was opened."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer.io.files.stamps import Glance, stamp_of


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open file of 5 bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def glance(fd: int, *, local: bool = True) -> Glance:
    return Glance(fd, stamp_of(os.fstat(fd)), local=local)


def test_a_file_is_as_it_was() -> None:
    with open(__file__, "rb") as file:
        assert not glance(file.fileno()).may_differ


def _put_back(fd: int) -> None:
    """Write to the file, and set its time back, as `rsync --inplace --times` does."""
    before = os.fstat(fd)
    os.pwrite(fd, b"x", 0)
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda fd: os.utime(fd, ns=(0, 1)),
        lambda fd: os.utime(fd, ns=(0, -1)),
        lambda fd: os.ftruncate(fd, 4),
        lambda fd: os.fchmod(fd, 0o600),
        _put_back,
    ],
    ids=["time", "time before 1970", "size", "mode", "time put back"],
)
def test_a_change_shows_until_it_is_what_is_expected(file: int, change: Callable[[int], Any]) -> None:
    os.utime(file, ns=(0, 10**18))
    looking = glance(file)
    before = os.fstat(file)
    while os.fstat(file).st_ctime_ns == before.st_ctime_ns:  # the kernel's clock has ticks
        change(file)
    assert looking.may_differ
    looking.expect(stamp_of(os.fstat(file)))
    assert not looking.may_differ


def test_a_read_is_no_change(file: int) -> None:
    looking = glance(file)
    assert os.pread(file, 5, 0) == b"12345"
    assert not looking.may_differ


def test_of_a_file_system_that_asks_others_every_file_may_differ(file: int) -> None:
    assert glance(file, local=False).may_differ
