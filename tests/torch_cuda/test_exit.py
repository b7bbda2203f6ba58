"""A process that ends in the midst of a load ends as it wants to, with its own status."""

import ctypes
import faulthandler
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch

STATUS = 3
TIMES = 12


def statuses(checkpoint: Path, device: str) -> Counter[int]:
    """How processes end that leave a load open: each some moments later in it than the one before."""
    # Its thread is not in a child, and Python would wait for it there.
    faulthandler.cancel_dump_traceback_later()
    found: Counter[int] = Counter()
    for number in range(TIMES):
        child = os.fork()
        if not child:
            signal.alarm(30)
            torch.zeros(1, device="cuda")
            streamer = SafetensorsStreamer()
            streamer.stream_files([str(checkpoint)], device=device)
            tensors = streamer.get_tensors()
            kept = [next(tensors) for _ in range(number % 3)]
            time.sleep(0.004 * number)
            # As at the end of a script: Python's own end, and what was registered for it.
            ctypes.pythonapi.Py_Exit(STATUS)
            del kept
        found[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
    return found


@emulated_torch(modes=("lazy",), seconds=120)
def test_while_memory_of_a_device_is_allocated(emulator: Emulator, checkpoint: Path) -> None:
    emulator.delay("cuMemAlloc", 0.05)
    assert statuses(checkpoint, "cuda") == {STATUS: TIMES}


@emulated_torch(modes=("lazy",), seconds=120)
def test_while_memory_of_the_host_is_page_locked(
    emulator: Emulator, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    emulator.delay("cuMemHostAlloc", 0.05)
    assert statuses(checkpoint, "cpu") == {STATUS: TIMES}
