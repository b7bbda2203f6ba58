"""Loads in a process of their own, so that their peak memory is their own: three of one kind, and one that compares.

Prints a JSON object: bytes, seconds, peak (bytes of resident memory above what the imports took), tensors.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.profiling import evict

RUNS: Final = 3
"""Of which the median counts."""


def load(paths: Sequence[str], reader: Callable[[Sequence[str]], int], *, cold: bool) -> dict[str, float]:
    """Load all tensors, `RUNS` times; the median of the seconds, and the peak of the first time."""
    seconds, size, peak = [], 0, 0
    for run in range(RUNS):
        if cold:
            evict(list(paths))
        baseline = _reset_peak()
        start = time.perf_counter()
        size = reader(paths)
        seconds.append(time.perf_counter() - start)
        if not run:
            peak = _resident("VmHWM") - baseline
    return {"bytes": size, "seconds": statistics.median(seconds), "peak": peak}


def stream(paths: Sequence[str]) -> int:
    """Stream every tensor and drop it. Returns their bytes."""
    size = 0
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(paths))
        for _, tensor in streamer.get_tensors():
            size += tensor.nbytes
    return size


def load_file(paths: Sequence[str]) -> int:
    """Safetensors' own loader, file by file; its tensors are copied out of the mapping, as they would be to be used."""
    size = 0
    for path in paths:
        for tensor in safetensors.torch.load_file(path).values():
            size += tensor.clone().nbytes
    return size


def warm_up(paths: Sequence[str], references: Sequence[str]) -> None:
    """Stream one small tensor: imports and the first connection are no part of streaming."""
    with safetensors.safe_open(references[0], framework="pt") as file:
        smallest = min(file.keys(), key=lambda name: math.prod(file.get_slice(name).get_shape()))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(paths[0], tensor_names=[smallest])
        for _ in streamer.get_tensors():
            pass


def compare(paths: Sequence[str], references: Sequence[str]) -> int:
    """Stream again and compare each tensor, bit for bit, with what safetensors' own loader reads from `references`.

    Returns the number of tensors.

    Raises:
        ValueError: a tensor differs, is missing, or came twice.
    """
    with ExitStack() as stack:
        waiting = {}
        for reference in references:
            file = stack.enter_context(safetensors.safe_open(reference, framework="pt"))
            waiting.update(dict.fromkeys(file.keys(), file))
        total = len(waiting)
        streamer = stack.enter_context(SafetensorsStreamer())
        streamer.stream_files(list(paths))
        for name, tensor in streamer.get_tensors():
            if name not in waiting:
                raise ValueError(f"{name} came twice, or is not in the checkpoint")
            if not _is_same(tensor, waiting.pop(name).get_tensor(name)):
                raise ValueError(f"{name} is not what safetensors reads")
        if waiting:
            raise ValueError(f"{len(waiting)} tensors never came, {next(iter(waiting))} first")
        return total


def _is_same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    return torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


def _resident(field: str) -> int:
    """Bytes; VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _reset_peak() -> int:
    """Forget the peak of the imports. Returns the bytes resident now."""
    with suppress(OSError):  # some sandboxes refuse; then the peak of the imports counts as well
        Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def main() -> int:
    """Load the paths of the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.load", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--reference", action="append", required=True, help="the same file on disk; one for each PATH")
    parser.add_argument("--cold", action="store_true", help="take the files out of the page cache before each run")
    parser.add_argument("--safetensors", action="store_true", help="by safetensors' own loader")
    arguments = parser.parse_args()
    warm_up(arguments.paths, arguments.reference)
    reader = load_file if arguments.safetensors else stream
    result = load(arguments.paths, reader, cold=arguments.cold)
    print(json.dumps(result | {"tensors": compare(arguments.paths, arguments.reference)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
