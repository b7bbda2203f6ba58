"""Locks of ranges, which exclude other descriptions of a file, and end with their owner."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.cache import locks


@pytest.fixture
def one(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def other(one: int, tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_range_is_locked_by_one_description_only(one: int, other: int) -> None:
    assert locks.lock(one, 10, 10)
    assert not locks.lock(other, 19, 1)
    assert locks.lock(other, 20, 1)


def test_the_description_that_has_a_range_locked_may_lock_it_again(one: int) -> None:
    assert locks.lock(one, 10, 10)
    assert locks.lock(one, 12, 3)


def test_a_part_of_a_range_is_unlocked_by_itself(one: int, other: int) -> None:
    locks.lock(one, 0, 100)
    locks.unlock(one, 40, 20)
    assert locks.lock(other, 40, 20)
    assert not locks.lock(other, 39, 1)
    assert not locks.lock(other, 60, 1)


def test_shared_locks_exclude_an_exclusive_one_only(one: int, other: int) -> None:
    assert locks.lock(one, 0, 1, shared=True)
    assert locks.lock(other, 0, 1, shared=True)
    assert not locks.lock(one, 0, 1)
    locks.unlock(other, 0, 1)
    assert locks.lock(one, 0, 1)


def test_one_sees_the_locks_of_others_and_not_its_own(one: int, other: int) -> None:
    locks.lock(one, 1 << 62, 1, shared=True)
    assert locks.is_locked(other, 1 << 62, 1)
    assert not locks.is_locked(one, 1 << 62, 1)


def test_the_lock_of_a_process_ends_with_it_however_it_ends(one: int, tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from runai_model_streamer.io.cache import locks\n"
        f"fd = os.open({str(tmp_path / 'file')!r}, os.O_RDWR)\n"
        "print(locks.lock(fd, 0, 10), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not locks.lock(one, 5, 1)
        process.kill()
    assert locks.lock(one, 5, 1)
