"""The rows of the table: how each package loads files onto a device, and what it takes to run it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Tensors = Iterator[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Loader:
    """A row of the table."""

    title: str
    load: Callable[[Sequence[str], str], Tensors]
    """Takes files and a device."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of its process."""
    package: str = ""
    """What pip installs for it, beside PyTorch; "" for what our own environment has."""
    may_fail: bool = False
    """It takes more than a GPU: that it fails is a row, and no failure of the benchmark."""


def _streamer(files: Sequence[str], device: str) -> Tensors:
    """Ours and the original's: one import name, one interface, told apart by the environment."""
    with importlib.import_module("runai_model_streamer").SafetensorsStreamer() as streamer:
        streamer.stream_files(list(files), device=device)
        yield from streamer.get_tensors()


def _streamer_by_host(files: Sequence[str], device: str) -> Tensors:
    with importlib.import_module("runai_model_streamer").SafetensorsStreamer() as streamer:
        streamer.stream_files(list(files))
        for name, tensor in streamer.get_tensors():
            yield name, tensor.to(device)


def _safetensors(files: Sequence[str], device: str) -> Tensors:
    load_file = importlib.import_module("safetensors.torch").load_file
    for path in files:
        yield from load_file(path, device=device).items()


def _fastsafetensors(files: Sequence[str], device: str, *, nogds: bool = True) -> Tensors:
    """File by file, which is how vLLM drives it on one rank."""
    module = importlib.import_module("fastsafetensors")
    for path in files:
        loader = module.SafeTensorsFileLoader(module.SingleGroup(), device, nogds=nogds)
        loader.add_filenames({0: [path]})
        buffers = loader.copy_files_to_device()
        for name in buffers.key_to_rank_lidx:
            yield name, buffers.get_tensor(name)
        # Tensors own what they lie in: those that the caller keeps stay valid (its documented contract).
        buffers.close()
        loader.close()


def _fastsafetensors_gds(files: Sequence[str], device: str) -> Tensors:
    return _fastsafetensors(files, device, nogds=False)


def _instanttensor(files: Sequence[str], device: str) -> Tensors:
    with importlib.import_module("instanttensor").safe_open(list(files), framework="pt", device=device) as file:
        yield from file.tensors()


_RUNAI: Final = "runai-model-streamer==0.17.1"

OURS: Final = "ours"
LOADERS: Final[dict[str, Loader]] = {
    OURS: Loader("ours, device=", _streamer, {"RUNAI_STREAMER_GDS": "0"}),
    "ours-gds": Loader("ours, GPUDirect (RUNAI_STREAMER_GDS=1)", _streamer, {"RUNAI_STREAMER_GDS": "1"}, may_fail=True),
    "ours-by-host": Loader("ours, to the host, then tensor.to()", _streamer_by_host),
    "ours-by-pageable": Loader("the same, RUNAI_STREAMER_PINNED=0", _streamer_by_host, {"RUNAI_STREAMER_PINNED": "0"}),
    "safetensors": Loader("safetensors load_file(device=)", _safetensors),
    "instanttensor": Loader("InstantTensor, device=", _instanttensor, package="instanttensor", may_fail=True),
    "fastsafetensors": Loader(
        "fastsafetensors, device=, nogds", _fastsafetensors, package="fastsafetensors", may_fail=True
    ),
    "fastsafetensors-gds": Loader(
        "fastsafetensors, device=, GPUDirect", _fastsafetensors_gds, package="fastsafetensors", may_fail=True
    ),
    "runai": Loader(f"{_RUNAI}, device=", _streamer, package=_RUNAI, may_fail=True),
    "runai-by-host": Loader(
        f"{_RUNAI}, to the host, then tensor.to()", _streamer_by_host, package=_RUNAI, may_fail=True
    ),
}
