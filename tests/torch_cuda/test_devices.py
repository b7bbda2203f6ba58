"""Loads on a machine with two devices."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.checkpoints import raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import TENSORS, has_context, load, mapped, wrong


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


# A context takes some 530 MB of a device's memory, in each process.


@emulated_torch(devices=2)
def test_a_load_onto_the_second_device_makes_no_context_on_the_first(emulator: Emulator, checkpoint: Path) -> None:
    assert wrong(load(checkpoint, "cuda:1"), "cuda:1") == []
    assert not has_context(0)


@emulated_torch(devices=2, modes=("lazy",))
def test_nor_does_one_onto_the_current_device(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.set_device(1)
    assert wrong(load(checkpoint, "cuda"), "cuda:1") == []
    assert not has_context(0)


@emulated_torch(devices=2, modes=("lazy",))
def test_nor_do_page_locked_loads_onto_the_host(
    emulator: Emulator, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    torch.cuda.set_device(1)
    torch.zeros(1, device="cuda")
    assert wrong(load(checkpoint, "cpu"), "cpu") == []
    assert not has_context(0)


@emulated_torch(devices=2, modes=("lazy",))
def test_nor_does_an_abandoned_one(emulator: Emulator, checkpoint: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda:1")
        next(streamer.get_tensors())
    assert not has_context(0)


@emulated_torch(devices=2, modes=("lazy", "random"))
def test_casts_are_made_on_the_second_device(emulator: Emulator, tmp_path: Path) -> None:
    stored = {f"w{index}": torch.randn(64, 65 + index).to(torch.bfloat16) for index in range(6)}
    path = tmp_path / "bf16.safetensors"
    safetensors.torch.save_file(stored, path)
    loaded = load(path, "cuda:1", dtype=torch.float16)
    assert {name: raw(tensor.cpu()) for name, tensor in loaded.items()} == {
        name: raw(tensor.to(torch.float16)) for name, tensor in stored.items()
    }
    assert not has_context(0)
