"""A Ctrl-C anywhere in a load ends that load, and the process can load again, as in a notebook."""

import gc
import random
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, pull_files
from tests.checkpoints import join_ours, numbered, our_threads, write
from tests.interrupts import interrupted_at

POINTS = 40


def _load(folder: Path) -> int:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([folder / "small", folder / "large"])
        return sum(tensor.numel() for _, tensor in streamer.get_tensors())


def _close_early(folder: Path) -> None:
    streamer = SafetensorsStreamer()
    streamer.stream_file(folder / "large")
    tensors = streamer.get_tensors()
    assert isinstance(tensors, Generator)
    next(tensors)
    streamer.close()
    tensors.close()  # Python swallows a Ctrl-C where it closes a generator by itself


def _pull(folder: Path) -> None:
    pull_files(folder, folder.parent / "pulled")


@pytest.mark.parametrize("call", [_load, _close_early, _pull])
def test_a_ctrl_c_at_any_point_leaves_no_thread_and_the_next_load_is_right(
    call: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "small", numbered([100_000] * 12 + [10] * 5))
    write(folder / "large", numbered([3_000_000] * 2))
    whole = _load(folder)
    call(folder)  # what only the first call does, such as imports, is not of interest
    last = interrupted_at(1 << 40, lambda: call(folder)).points
    assert last > POINTS
    numbers = random.Random(last).sample(range(1, last + 1), POINTS)
    interrupted = 0
    for number in numbers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a streamer that the Ctrl-C left open is dropped
            interrupted += interrupted_at(number, lambda: call(folder)).place is not None
            gc.collect()
        join_ours()
        assert our_threads() == [], number
        assert _load(folder) == whole, number
    assert interrupted > POINTS / 2
