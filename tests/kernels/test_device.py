"""The CUDA kernels, without a GPU: compiled and assembled for each kind, and run in numba-cuda's simulator."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import torch

from tests.cuda_emulator.testing import needs
from tests.kernels import oracle, samples

ROOT: Final = Path(__file__).parents[2]
KERNELS: Final = [f"cast_{source}_{target}" for source, target in oracle.PAIRS]

needs_gpu: Final = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: launches are shown by one only")

pytestmark = needs("numba_cuda")


def run(module: str, *arguments: str, **environment: str) -> list[str]:
    # A process of its own: the simulator takes the place of numba.cuda, and settings are read at its import.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"tests.kernels.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("capability", ["8 0", "9 0", "10 0"])
def test_every_kernel_compiles_for_each_kind_of_gpu_and_assembles_where_there_is_ptxas(capability: str) -> None:
    how = "assembled" if shutil.which("ptxas") else "compiled"
    assert run("ptx", *capability.split()) == [f"{kernel} {how}" for kernel in KERNELS]


def test_every_kernel_does_what_the_oracle_does_in_the_simulator() -> None:
    assert run("simulated", NUMBA_ENABLE_CUDASIM="1") == KERNELS


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("source", "target"), oracle.PAIRS)
def test_every_value_on_a_gpu(source: str, target: str, offset: int) -> None:
    from runai_model_streamer.kernels import device

    data = samples.all_values(source)
    count = len(data) // oracle.WIDTHS[source]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        memory = torch.zeros(offset + len(data), dtype=torch.uint8, device="cuda")
        memory[offset:] = torch.from_numpy(data.copy())
        made = torch.zeros(count * oracle.WIDTHS[target], dtype=torch.uint8, device="cuda")
        device.cast(source, target)(memory.data_ptr() + offset, made.data_ptr(), count, stream.cuda_stream)
        found = made.cpu().numpy()
    assert (found == oracle.cast(data, source, target)).all()
