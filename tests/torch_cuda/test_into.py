"""Values land in tensors that exist on a device, in the order of the caller's stream."""

from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ArgumentError
from tests.checkpoints import stored, write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, TENSORS, left_behind, sleep, wrong


def zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(kept.shape, dtype=torch.uint8).to(DEVICE) for name, kept in TENSORS.items()}


@emulated_torch(modes=("lazy", "eager", "random"))
def test_tensors_on_a_device_are_filled_behind_what_reads_them(emulator: Emulator, checkpoint: Path) -> None:
    into = zeros()
    addresses = {name: tensor.data_ptr() for name, tensor in into.items()}
    sleep()
    before = {name: tensor.clone() for name, tensor in into.items()}  # runs late, and still sees the old values
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint, into=into)
        assert all(tensor is into[name] for name, tensor in streamer.get_tensors())
    assert wrong(into) == []
    assert not any(bytes(tensor.cpu().numpy().tobytes()).strip(b"\0") for tensor in before.values())
    assert {name: tensor.data_ptr() for name, tensor in into.items()} == addresses
    into.clear()
    before.clear()
    del streamer
    assert left_behind(emulator) == {}


@emulated_torch()
def test_the_load_goes_where_the_tensors_are(emulator: Emulator, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"a": stored("F32", (4,))})
    with SafetensorsStreamer() as streamer, pytest.raises(ArgumentError, match="on cpu, and device is cuda:0"):
        streamer.stream_file(path, device="cuda:0", into={"a": torch.zeros(4)})
