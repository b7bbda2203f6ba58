"""What plain reads give: that they read all of it, and what cannot be measured."""

from pathlib import Path

import pytest

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.profiling import S3Server, cached_fraction, measure_limit
from tests.io.files.local_files import require_evicted, require_local_disk

SIZE = 5_000_001
"""Bytes: some blocks, and a part of one."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    return path


def test_files_and_objects_have_a_limit(file: Path) -> None:
    assert measure_limit(file, runs=1) > 0
    assert measure_limit([file, file], threads=3, runs=2) > 0
    with S3Server([file]) as server:
        assert measure_limit(server, threads=2, runs=1) > 0


def test_a_cold_limit_leaves_the_page_cache_empty(file: Path) -> None:
    require_local_disk(file.parent)
    require_evicted(file)
    assert measure_limit(file, cache="cold", runs=1) > 0
    assert cached_fraction(file) == 0.0


def test_other_stores_and_nothing_at_all_are_errors(file: Path) -> None:
    with pytest.raises(ArgumentError, match="s3://bucket/key: only local files"):
        measure_limit("s3://bucket/key")
    with pytest.raises(ArgumentError, match="one run"):
        measure_limit(file, runs=0)
    with pytest.raises(ArgumentError, match="only local files"):
        measure_limit([])
