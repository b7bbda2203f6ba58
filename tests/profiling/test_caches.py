"""Files go into the page cache and out of it, and nobody else's."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.profiling import cached_fraction, evict, warm
from tests.io.files.local_files import require_local_disk

SIZE = 1 << 20


def test_a_warm_file_is_cached_and_an_evicted_one_is_not(cold_file: Path) -> None:
    assert cached_fraction(cold_file) == 0.0
    warm([cold_file])
    assert cached_fraction(cold_file) == 1.0
    evict([cold_file])
    assert cached_fraction(cold_file) == 0.0


def test_what_was_just_written_is_evicted_too(cold_file: Path) -> None:
    content = os.urandom(SIZE)
    cold_file.write_bytes(content)
    evict([cold_file])
    assert cached_fraction(cold_file) == 0.0
    assert cold_file.read_bytes() == content


def test_other_files_stay_where_they_are(cold_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(os.urandom(SIZE))
    warm([other])
    evict([cold_file])
    assert cached_fraction(other) == 1.0


def test_an_empty_file_is_neither_here_nor_there(tmp_path: Path) -> None:
    require_local_disk(tmp_path)
    (tmp_path / "empty").touch()
    warm([tmp_path / "empty"])
    assert cached_fraction(tmp_path / "empty") == 1.0


def test_a_file_in_memory_cannot_be_cold() -> None:
    path = Path("/dev/shm/runai-test-caches")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        pytest.skip("no /dev/shm")
    path.write_bytes(b"x")
    try:
        with pytest.raises(ArgumentError, match=r"is on tmpfs, which is memory: choose a folder on a disk"):
            evict([path])
        assert cached_fraction(path) == 1.0
    finally:
        path.unlink()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    for act in (evict, warm):
        with pytest.raises(FileNotFoundError):
            act([tmp_path / "missing"])
