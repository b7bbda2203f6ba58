"""Ranks on two GPUs that pass on to each other, by broadcasts, what each has uploaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_emulator import MODES, Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda import ranks


def seen(folder: Path, mode: str, *fault: str) -> list[list[str]]:
    """What was wrong on each rank."""
    variables = {**os.environ, "RUNAI_STREAMER_DIST_FANOUT": "device", "RUNAI_STREAMER_DIST_TIMEOUT": "60"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.torch_cuda.ranks", str(folder), mode, *fault]
    done = subprocess.run(command, check=False, env=variables, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks.RANKS)]


@emulated_torch(devices=2, modes=["lazy"])
@pytest.mark.parametrize("mode", MODES)
def test_both_ranks_get_all_though_each_reads_and_uploads_a_half(
    emulator: Emulator, checkpoint: Path, mode: str
) -> None:
    assert seen(checkpoint.parent, mode) == [[], []]


@emulated_torch(devices=2, modes=["lazy"])
@pytest.mark.parametrize("fault", ranks.FAULTS)
def test_a_planted_fault_is_found(emulator: Emulator, checkpoint: Path, fault: str) -> None:
    assert any(seen(checkpoint.parent, "lazy", fault))
