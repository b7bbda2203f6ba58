"""One load in a process of its own, so that its peak memory is its own: streams, then streams again and compares.

Prints a JSON object: bytes, seconds, peak (bytes of resident memory above what the imports took), tensors.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import safetensors
import torch

from runai_model_streamer import SafetensorsStreamer


def load(paths: Sequence[str]) -> dict[str, float]:
    """Stream every tensor and drop it; measure."""
    baseline = _reset_peak()
    size = 0
    start = time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(paths))
        for _, tensor in streamer.get_tensors():
            size += tensor.nbytes
    return {"bytes": size, "seconds": time.perf_counter() - start, "peak": _resident("VmHWM") - baseline}


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
    arguments = parser.parse_args()
    if arguments.paths[0].startswith("s3://"):
        importlib.import_module("boto3")  # an import, like torch's: neither timed nor measured
    result = load(arguments.paths)
    print(json.dumps(result | {"tensors": compare(arguments.paths, arguments.reference)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
