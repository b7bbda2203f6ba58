"""Loads the models of three shards that the tests of each store serve, and compares them with their files."""

from pathlib import Path
from typing import Final

import torch

from runai_model_streamer import SafetensorsStreamer
from tests.checkpoints import raw

SHARDS: Final = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))


def loaded(paths: list[str]) -> dict[str, torch.Tensor]:
    """All tensors of the files, in memory of their own."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}


def same(found: dict[str, torch.Tensor], folder: Path) -> bool:
    """Whether these are the tensors of the folder's shards, to the bit."""
    there = loaded([str(folder / shard) for shard in SHARDS])
    return found.keys() == there.keys() and all(raw(found[name]) == raw(tensor) for name, tensor in there.items())
