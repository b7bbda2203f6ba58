"""Each loader as an iterator over tensors, the check of what it yields, and a worker's talk with its parent.

    python benchmarks/worker.py '{"loader": "runai", "files": ["a.safetensors"], "tiny": "t.safetensors",
                                  "use": "dropped"}'

A worker runs in the virtual environment of what it measures. It imports its loader and loads the tiny checkpoint, so
that lazy imports are outside the measured span. It makes the parameters that tensors are copied into, prints a JSON
line, and waits for a line on its standard input: the parent now brings the page cache into the scenario's state. It
loads the tiny checkpoint once more and then the scenario's, prints a second JSON line, and exits. The span runs from
just before the loader is given the files to its last tensor; closing is outside. Peak memory is the kernel's
high-water mark, reset just before.

The tiny checkpoint comes once more because code runs ten times slower after a second of idleness on our machines, whose
host takes the memory away: 40 ms rather than 4 to open two files. A job with `first` skips both tiny loads: only torch
and the loader's package are imported, which is the first load of a fresh process.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import Placed, read_header
from benchmarks.span import status_kib

Stream = Iterator[tuple[str, Any]]
Opener = Callable[[Sequence[str]], AbstractContextManager[Stream]]
Prepared = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


def _streamer() -> Opener:
    """Ours and the peer runai-model-streamer: one import name, one interface, told apart by the environment."""
    streamer_class = importlib.import_module("runai_model_streamer").SafetensorsStreamer

    @contextmanager
    def stream(files: Sequence[str]) -> Iterator[Stream]:
        with streamer_class() as streamer:
            streamer.stream_files(list(files))
            yield streamer.get_tensors()

    return stream


def _fastsafetensors() -> Opener:
    """File by file on the CPU without GPUDirect, which is how vLLM drives it on one rank."""
    module = importlib.import_module("fastsafetensors")

    def tensors(files: Sequence[str]) -> Stream:
        for path in files:
            loader = module.SafeTensorsFileLoader(module.SingleGroup(), "cpu", nogds=True)
            loader.add_filenames({0: [path]})
            buffers = loader.copy_files_to_device()
            for name in buffers.key_to_rank_lidx:
                yield name, buffers.get_tensor(name)
            # Tensors own what they lie in: those that the caller keeps stay valid (its documented contract).
            buffers.close()
            loader.close()

    @contextmanager
    def stream(files: Sequence[str]) -> Iterator[Stream]:
        yield tensors(files)

    return stream


def _safetensors() -> Opener:
    safe_open = importlib.import_module("safetensors").safe_open

    def tensors(files: Sequence[str]) -> Stream:
        for path in files:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping: it has no __iter__
                    yield name, file.get_tensor(name)

    @contextmanager
    def stream(files: Sequence[str]) -> Iterator[Stream]:
        yield tensors(files)

    return stream


def _instanttensor() -> Opener:
    safe_open = importlib.import_module("instanttensor").safe_open

    @contextmanager
    def stream(files: Sequence[str]) -> Iterator[Stream]:
        with safe_open(list(files), framework="pt", device="cpu") as file:
            yield iter(file.tensors())

    return stream


def _null_gpu() -> Opener:
    """Ours onto a GPU that does nothing."""
    opener: Opener = importlib.import_module("benchmarks.ceiling.null_gpu").opener()
    return opener


OPENERS: dict[str, Callable[[], Opener]] = {
    "ours": _streamer,
    "ours-before": _streamer,
    "ours-null-gpu": _null_gpu,
    "runai": _streamer,
    "runai-buffered": _streamer,
    "fastsafetensors": _fastsafetensors,
    "fastsafetensors-buffered": _fastsafetensors,
    "safetensors": _safetensors,
    "instanttensor": _instanttensor,
}


def bytes_of(tensor: Any) -> Any:
    """The tensor's bytes as a NumPy array over the same memory."""
    torch = importlib.import_module("torch")
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _sample(files: Sequence[str]) -> dict[str, tuple[str, Placed]]:
    """A few tensors of every file, by name, to compare with the file: both ends, the largest, and some between."""
    chosen = {}
    for path in files:
        placed = read_header(Path(path))
        step = max(1, len(placed) // 5)
        for tensor in [*placed[::step], placed[-1], max(placed, key=lambda tensor: tensor.nbytes)]:
            chosen[tensor.name] = (path, tensor)
    return chosen


def _expected(path: str, tensor: Placed) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return zlib.crc32(os.pread(descriptor, tensor.nbytes, tensor.start))
    finally:
        os.close(descriptor)


class Check:
    """The correctness guard of an untimed pass: every name once, and the bytes of a sample as the file has them."""

    def __init__(self, files: Sequence[str]) -> None:
        self.sample = _sample(files)
        self.sums: dict[str, int] = {}
        self.missing = {tensor.name: tensor.nbytes for path in files for tensor in read_header(Path(path))}

    def see(self, name: str, tensor: Any) -> None:
        if self.missing.pop(name) != tensor.nbytes:
            raise AssertionError(f"{name} has {tensor.nbytes} bytes")
        if name in self.sample:
            self.sums[name] = zlib.crc32(bytes_of(tensor))

    def finish(self) -> int:
        wrong = [name for name, place in self.sample.items() if self.sums.get(name) != _expected(*place)]
        if wrong or self.missing:
            raise AssertionError(f"wrong bytes in {wrong[:3]}, {len(self.missing)} tensors missing")
        return len(self.sums)


def version(loader: str) -> str:
    if loader.partition("-")[0] == "ours":
        return "this checkout"
    distribution = loader.removesuffix("-buffered")
    distribution = {"runai": "runai-model-streamer"}.get(distribution, distribution)
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def load_and_drop(opener: Opener, path: str) -> None:
    """Load one file for the sake of what that imports, and wakes."""
    with opener([path]) as stream:
        for _ in stream:
            pass


def converse(prepare: Callable[[dict[str, Any]], Prepared]) -> None:
    """Prepare the job that the command line holds, say so, wait for the word, run it, say what it took."""
    # Whatever a loader prints goes to standard error: standard output carries the two JSON lines only.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready, run = prepare(json.loads(sys.argv[1]))
    ready["anon_kib"] = status_kib("RssAnon")
    print(json.dumps(ready), file=lines, flush=True)
    # Importing torch leaves a collection of all its objects due (80 ms here): whose load it would fall into is chance.
    gc.collect()
    sys.stdin.readline()
    print(json.dumps(run()), file=lines, flush=True)
