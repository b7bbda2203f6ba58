"""A process that ends in the midst of a load ends as it wants to, with its own status. More of them: exits.py."""

import faulthandler
from pathlib import Path

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.exits import ALLOCATIONS, STATUS, statuses

TIMES = 6


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@emulated_torch(modes=("lazy",), seconds=240)
def test_while_memory_is_allocated(
    emulator: Emulator, checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    # Its thread is not in a child, and Python would wait for it there.
    faulthandler.cancel_dump_traceback_later()
    emulator.delay(ALLOCATIONS[device], 0.05)
    assert statuses(checkpoint, device, TIMES) == {STATUS: TIMES}
