"""All scenarios with each of torch's allocators, on one device and on the second of two, in one to three orders.

EVERY_ORDER=1 runs all in three: a minute more.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from runai_model_streamer import release_staging_memory
from runai_model_streamer.pipeline.cuda import destination
from tests.checkpoints import join_ours, write
from tests.cuda_emulator import MODES, Emulator, Mode
from tests.cuda_emulator.testing import Allocator, emulated_torch
from tests.torch_cuda.loads import left_behind
from tests.torch_cuda.scenarios import FILES, KIB, SCENARIOS, Place

pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode")


@pytest.fixture(autouse=True)
def _groups_of_six_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a load of little more than a MiB has six groups."""
    # A measured constant of planning; small groups make many of them out of little data.
    monkeypatch.setattr(destination, "GROUP_BYTES", 256 * KIB)
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(256 * KIB))
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "2")


def failures(emulator: Emulator, folder: Path, device: int) -> list[str]:
    """What went wrong, scenario by scenario: bytes, misuses of CUDA, what is left behind."""
    place = Place(write(folder / "model.safetensors", FILES), torch.device("cuda", device))
    torch.zeros(1, device=place.device)
    found = []
    for name, run in SCENARIOS.items():
        try:
            found += [f"{name}: {each} is wrong" for each in run(place)]
        except Exception as error:  # the others are to be seen too
            found.append(f"{name}: {type(error).__name__}: {error}")
        join_ours()
        found += [f"{name}: {misuse.kind}: {misuse.text}" for misuse in emulator.take_misuses()]
    release_staging_memory()
    return found + [f"{count} {what} are left" for what, count in left_behind(emulator).items() if what != "allocated"]


def test_there_are_forty_scenarios_at_least() -> None:
    assert len(SCENARIOS) >= 40


def _all_with(allocator: Allocator, devices: int) -> Callable[..., None]:
    modes: Sequence[Mode] = ("random",) if devices > 1 else ("lazy", "random")
    if os.environ.get("EVERY_ORDER") or (allocator == "native" and devices == 1):
        modes = MODES

    @emulated_torch(allocator=allocator, devices=devices, modes=modes, seconds=240)
    def test(emulator: Emulator, tmp_path: Path) -> None:
        assert failures(emulator, tmp_path, devices - 1) == []

    return test


test_with_torchs_own_allocator = _all_with("native", 1)
test_with_torchs_own_allocator_on_the_second_device = _all_with("native", 2)
test_with_expandable_segments = _all_with("expandable", 1)
test_with_expandable_segments_on_the_second_device = _all_with("expandable", 2)
test_with_pools_of_cuda = _all_with("async", 1)
test_with_pools_of_cuda_on_the_second_device = _all_with("async", 2)
