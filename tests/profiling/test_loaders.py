"""Other loaders next to this package's."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from runai_model_streamer.errors import ArgumentError, StreamerError
from runai_model_streamer.profiling import measure_loaders
from tests.checkpoints import numbered, write

SIZES = (3000, 100, 7000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", numbered(SIZES))


def test_safetensors_own_loader_is_measured_next_to_ours(file: Path) -> None:
    found = measure_loaders([file, file], runs=2)
    theirs = f"safetensors {version('safetensors')}"
    assert [each.settings for each in found] == [
        {"cache": "warm", "loader": "this package"},
        {"cache": "warm", "loader": theirs},
    ]
    for each in found:
        assert each.size == 2 * sum(SIZES)
        assert len(each.rates) == len(each.cpu_seconds) == 2
        assert each.peak_memory == 0
        assert each.cpu_per_gb is not None
        assert each.cpu_per_gb > 0


def test_what_is_not_installed_is_left_out(file: Path) -> None:
    # The original is not there: this package has its import name, and is no release of it.
    found = measure_loaders(file, runs=1, original=sys.executable)
    assert not [each for each in found if "runai" in str(each.settings["loader"])]


def test_a_loader_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    missing = tmp_path / "gone.safetensors"
    empty = write(tmp_path / "bad.safetensors", numbered([10]))
    empty.write_bytes(empty.read_bytes()[:-1] + b"xx")
    with pytest.raises(StreamerError):
        measure_loaders(empty, runs=1)
    with pytest.raises(StreamerError):
        measure_loaders(missing, runs=1)


def test_nothing_to_measure_is_an_error(file: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to measure"):
        measure_loaders([])
    with pytest.raises(ArgumentError, match="nothing to measure"):
        measure_loaders(file, runs=0)
