"""The process of one load, in the environment of its loader.

    python benchmarks/gpu/load.py '{"loader": "ours", "files": [...], "tiny": "t.safetensors", "device": "cuda:0"}'

It makes the CUDA context and loads a tiny checkpoint, says 'ready', waits for a line, loads, and says what was seen. It
says both in JSON, on standard output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_once(loader: str, files: Sequence[str], tiny: str, device: str) -> None:
    """Load the tiny checkpoint, and then the files when told to."""
    from benchmarks.gpu.loaders import LOADERS

    load = LOADERS[loader].load
    kept = dict(load([tiny], device))
    _finish(device)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    kept.clear()
    began = time.perf_counter()
    kept.update(load(files, device))
    _finish(device)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "wrong": wrong(kept, files)}), flush=True)


def _finish(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def wrong(tensors: dict[str, Any], files: Sequence[str]) -> list[str]:
    """Names that are missing or, of every tenth, whose bytes are not the file's."""
    import torch

    from benchmarks import checkpoints

    found = []
    for path in files:
        with open(path, "rb") as file:
            for index, placed in enumerate(checkpoints.read_header(Path(path))):
                tensor = tensors.get(placed.name)
                if tensor is None:
                    found.append(placed.name)
                elif index % 10 == 0:
                    file.seek(placed.start)
                    expected = torch.frombuffer(bytearray(file.read(placed.nbytes)), dtype=torch.uint8)
                    if not torch.equal(tensor.reshape(-1).view(torch.uint8).cpu(), expected):
                        found.append(placed.name)
    return found


if __name__ == "__main__":
    # `benchmarks` is imported by name, but the repository's root is no place to import anything else from: the original
    # has the same import name as ours, and is installed in the environment that runs this. Ours comes by PYTHONPATH.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks.checkpoints
    import benchmarks.gpu.loaders  # noqa: F401

    del sys.path[0]
    load_once(**json.loads(sys.argv[1]))
