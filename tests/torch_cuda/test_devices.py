"""Loads on a machine with two devices."""

from pathlib import Path

import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.checkpoints import raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch, needs
from tests.torch_cuda.loads import TENSORS, load, mapped, wrong


@emulated_torch(devices=2)
def test_the_second_device_gets_what_it_was_asked_for(emulator: Emulator, checkpoint: Path) -> None:
    assert wrong(load(checkpoint, "cuda:1"), "cuda:1") == []
    assert torch.cuda.current_device() == 0


@emulated_torch(devices=2)
def test_the_callers_current_device_counts(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.set_device(1)
    assert wrong(load(checkpoint, "cuda"), "cuda:1") == []
    assert torch.cuda.current_device() == 1


@emulated_torch(devices=2)
def test_tensors_may_be_taken_while_another_device_is_current(emulator: Emulator, checkpoint: Path) -> None:
    loaded = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda:0")
        tensors = streamer.get_tensors()
        for index in range(len(TENSORS)):
            with torch.cuda.device(index % 2), torch.cuda.stream(torch.cuda.Stream(index % 2)):
                name, loaded[name] = next(tensors)
                assert torch.cuda.current_device() == index % 2
    torch.cuda.synchronize(0)
    assert wrong(loaded) == []


@emulated_torch(devices=2)
def test_loads_onto_two_devices_may_be_taken_in_turns(emulator: Emulator, checkpoint: Path) -> None:
    with SafetensorsStreamer() as first, SafetensorsStreamer() as second:
        first.stream_files([str(checkpoint)], device="cuda:0")
        second.stream_files([str(checkpoint)], device="cuda:1")
        pairs = list(zip(first.get_tensors(), second.get_tensors(), strict=True))
    assert wrong(dict(pair[0] for pair in pairs), "cuda:0") == []
    assert wrong(dict(pair[1] for pair in pairs), "cuda:1") == []


@emulated_torch(devices=2)
def test_a_tensor_may_be_dropped_while_its_copy_to_the_other_device_waits(emulator: Emulator, checkpoint: Path) -> None:
    made = mapped(checkpoint, lambda tensor: tensor.to("cuda:1", non_blocking=True), "cuda:0")
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    assert wrong(made, "cuda:1") == []


@emulated_torch(devices=2)
def test_page_locked_tensors_go_to_the_second_device_too(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.init()
    made = mapped(checkpoint, lambda tensor: tensor.to("cuda:1", non_blocking=True), "cpu")
    torch.cuda.synchronize(1)
    assert wrong(made, "cuda:1") == []


@needs("numba.cuda")
@emulated_torch(devices=2, modes=("lazy", "random"))
def test_casts_are_launched_on_the_second_device(emulator: Emulator, tmp_path: Path) -> None:
    stored = {f"w{index}": torch.randn(64, 65 + index).to(torch.bfloat16) for index in range(6)}
    path = tmp_path / "bf16.safetensors"
    safetensors.torch.save_file(stored, path)
    loaded = load(path, "cuda:1", dtype=torch.float16)
    assert {name: raw(tensor.cpu()) for name, tensor in loaded.items()} == {
        name: raw(tensor.to(torch.float16)) for name, tensor in stored.items()
    }
    assert "cuLaunchKernelEx" in emulator.calls()
