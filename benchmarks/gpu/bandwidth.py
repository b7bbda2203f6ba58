"""What the bus to the GPU gives at best: nvbandwidth's figure, and copies by PyTorch."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

TEST: Final = "host_to_device_memcpy_ce"
PATIENCE: Final = 60.0

Run = Callable[[Sequence[str]], str]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout


def of_nvbandwidth(index: int, which: Callable[[str], str | None] = shutil.which, run: Run = _output) -> str:
    """The figure of NVIDIA's nvbandwidth for a GPU, or why there is none."""
    program = which("nvbandwidth")
    if program is None:
        return "not installed"
    try:
        output = run([program, "-t", TEST])
    except (OSError, subprocess.SubprocessError) as error:
        return f"failed: {error}"
    rate = parse(output, index)
    return "its output was not understood" if rate is None else f"{rate:.2f} GB/s"


def parse(output: str, index: int) -> float | None:
    """GB/s of the GPU's column in nvbandwidth's matrix: a line of the GPUs, and one that begins with the CPU."""
    lines = [line.split() for line in output.splitlines()]
    for header, row in itertools.pairwise(lines):
        if str(index) in header and all(word.isdigit() for word in header) and len(row) == len(header) + 1:
            try:
                return float(row[1 + header.index(str(index))])
            except ValueError:
                return None
    return None


def of_torch(device: str, size: int = 256 << 20, copies: int = 20) -> str:
    """GB/s of copies from one piece of page-locked memory, as PyTorch makes them."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(copies):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    return f"{size * copies / (time.perf_counter() - began) / 1e9:.2f} GB/s"
