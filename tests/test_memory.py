"""What a load takes of the machine's memory, measured in a process of its own."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.checkpoints import encode, numbered

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
LIMIT = 32 * MIB
LARGEST = 20 * MIB

MEASURE = """
import gc, json, sys, zlib
import torch
from runai_model_streamer import SafetensorsStreamer

path, small, keep = sys.argv[1], sys.argv[2], sys.argv[3] == "keep"

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

with SafetensorsStreamer() as streamer:
    # Whatever is imported and allocated once is not the load's.
    streamer.stream_file(small)
    list(streamer.get_tensors())
gc.collect()
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
baseline = memory("VmRSS:")
kept, sums = [], []
with SafetensorsStreamer() as streamer:
    streamer.stream_file(path)
    for name, tensor in streamer.get_tensors():
        if keep:
            kept.append(tensor)
        else:
            sums.append(zlib.crc32(tensor.numpy()))
peak = memory("VmHWM:") - baseline
del tensor
gc.collect()
sums = sums or [zlib.crc32(tensor.numpy()) for tensor in kept]
kept.clear()
left = memory("VmRSS:") - baseline
print(json.dumps({"peak": peak, "left": left, "sums": sums}))
"""


class Checkpoint:
    """About 300 MB in tensors of many sizes, the largest 20 MiB."""

    def __init__(self, folder: Path) -> None:
        sizes = [LARGEST, 1000, 7 * MIB + 1, 3 * MIB, 0, 12 * MIB, 100_000] * 7
        tensors = numbered(sizes)
        self.sums = [zlib.crc32(tensor.data) for tensor in tensors.values()]
        self.path = folder / "large.safetensors"
        self.path.write_bytes(encode(tensors))
        self.small = folder / "small.safetensors"
        self.small.write_bytes(encode(numbered([1000])))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(tmp_path_factory.mktemp("memory"))


class Measured:
    def __init__(self, checkpoint: Checkpoint, keep: bool, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, checkpoint.path, checkpoint.small, "keep" if keep else "drop"],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        self.peak: int = figures["peak"]
        self.left: int = figures["left"]
        self.sums: list[int] = figures["sums"]


@pytest.mark.parametrize("direct", ["auto", "1"])
def test_a_caller_that_drops_its_tensors_stays_near_the_limit(checkpoint: Checkpoint, direct: str) -> None:
    measured = Measured(checkpoint, keep=False, RUNAI_STREAMER_MEMORY_LIMIT=str(LIMIT), RUNAI_STREAMER_DIRECT_IO=direct)
    assert measured.sums == checkpoint.sums
    assert measured.peak < LIMIT + LARGEST + 64 * MIB
    assert measured.left < 32 * MIB


def test_a_caller_that_keeps_its_tensors_has_them_right_after_the_end(checkpoint: Checkpoint) -> None:
    measured = Measured(checkpoint, keep=True, RUNAI_STREAMER_MEMORY_LIMIT=str(LIMIT))
    assert measured.sums == checkpoint.sums
    assert measured.peak > checkpoint.path.stat().st_size - 16 * MIB  # or nothing was measured
    assert measured.left < 32 * MIB
