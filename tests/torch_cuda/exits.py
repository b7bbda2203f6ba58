"""Processes that end in the midst of a load, each at another moment; how they end.

    python -m tests.cuda_emulator --torch /tmp/emulated python -m tests.torch_cuda.exits 200 --seed 1

It prints how many processes ended with each status, for loads onto a device and onto page-locked memory of the host. It
fails if one ended with another status than its own. Tests do so a few times (test_exit.py).

A moment is a number of tensors taken, anywhere in the load, and some milliseconds more. Both are random, by the seed.
"""

import argparse
import ctypes
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import torch

from runai_model_streamer import SafetensorsStreamer
from tests.checkpoints import write
from tests.cuda_emulator import Emulator
from tests.torch_cuda.loads import MIB, TENSORS

STATUS: Final = 3
"""What each process ends with."""

ALLOCATIONS: Final = {"cuda": "cuMemAlloc", "cpu": "cuMemHostAlloc"}
"""The call by which torch gets the memory that tensors land in, for each device."""


def statuses(checkpoint: Path, device: str, times: int, seed: int = 0) -> Counter[int]:
    """How forked processes end that leave a load open: each at a random moment of it."""
    moments = random.Random(seed)
    found: Counter[int] = Counter()
    for _ in range(times):
        # Half of them near the beginning, when threads start and most memory is allocated.
        taken, seconds = (
            moments.choice((moments.randrange(3), moments.randrange(len(TENSORS)))),
            moments.uniform(0, 0.02),
        )
        child = os.fork()
        if not child:
            try:
                _leave(checkpoint, device, taken, seconds)
            finally:
                os._exit(99)
        found[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
    return found


def _leave(checkpoint: Path, device: str, taken: int, seconds: float) -> None:
    """Take so many tensors, keep the last, wait, and end the process as at the end of a script."""
    signal.alarm(180)
    torch.zeros(1, device="cuda")
    streamer = SafetensorsStreamer()
    streamer.stream_files([str(checkpoint)], device=device)
    tensors = streamer.get_tensors()
    kept = None
    for _ in range(taken):
        kept = next(tensors)
    time.sleep(seconds)
    ctypes.pythonapi.Py_Exit(STATUS)  # Python's own end, and what was registered for it
    del kept


def main() -> int:
    """Print the statuses; 1 if one was another than the script's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("times", type=int, nargs="?", default=200, help="processes for each device (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses other moments (%(default)s)")
    options = parser.parse_args()
    os.environ |= {
        "RUNAI_STREAMER_PINNED": "1",
        "RUNAI_STREAMER_GDS": "0",
        "RUNAI_STREAMER_CONCURRENCY": "4",
        "RUNAI_STREAMER_CHUNK_BYTESIZE": str(2 * MIB),
        "RUNAI_STREAMER_MEMORY_LIMIT": str(16 * MIB),
    }
    emulator = Emulator.attach()
    failed = False
    folder = Path(tempfile.mkdtemp())  # an object that removes it would do so in each child
    try:
        checkpoint = write(folder / "model.safetensors", TENSORS)
        for device, call in ALLOCATIONS.items():
            emulator.reset()
            emulator.delay(call, 0.01)
            found = statuses(checkpoint, device, options.times, options.seed)
            print(f"Python {sys.version.split()[0]}, device={device}: {dict(found)}", flush=True)
            failed |= found != {STATUS: options.times}
    finally:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
