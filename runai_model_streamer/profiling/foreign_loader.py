"""A program: loads safetensors files with another loader, and says how long that took.

    python foreign_loader.py safetensors

It prints the loader's version, or nothing if it is not installed, and then loads the files of each line of its input,
a JSON list of paths. For each it prints a JSON object: bytes, seconds, cpu (seconds of the whole process). It imports
nothing of this package, so that it runs in any environment.
"""

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Load = Callable[[Sequence[str]], Iterator[Any]]


def _safetensors() -> Load:
    from safetensors import safe_open

    def load(paths: Sequence[str]) -> Iterator[Any]:
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    # A copy: without one the tensor lies over the file's pages, none of which has been read.
                    yield file.get_tensor(name).clone()

    return load


def _fastsafetensors() -> Load:
    module = importlib.import_module("fastsafetensors")

    def load(paths: Sequence[str]) -> Iterator[Any]:
        for path in paths:
            loader = module.SafeTensorsFileLoader(module.SingleGroup(), "cpu", nogds=True)
            loader.add_filenames({0: [path]})
            buffers = loader.copy_files_to_device()
            for name in buffers.key_to_rank_lidx:
                yield buffers.get_tensor(name)
            buffers.close()
            loader.close()

    return load


def _original() -> Load:
    module = importlib.import_module("runai_model_streamer")

    def load(paths: Sequence[str]) -> Iterator[Any]:
        with module.SafetensorsStreamer() as streamer:
            streamer.stream_files(list(paths))
            for _, tensor in streamer.get_tensors():
                yield tensor

    return load


LOADERS = {"safetensors": _safetensors, "fastsafetensors": _fastsafetensors, "runai-model-streamer": _original}


def main(name: str) -> None:
    """Load what the input names, until it ends."""
    try:
        version = importlib.metadata.version(name)
        load = LOADERS[name]()
    except Exception:  # absent, or not made for this machine
        return
    _say(version)
    for line in sys.stdin:
        paths = json.loads(line)
        started, cpu = time.perf_counter(), time.process_time()
        size = sum(tensor.nbytes for tensor in load(paths))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        _say(json.dumps({"bytes": size, "seconds": seconds, "cpu": cpu}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
