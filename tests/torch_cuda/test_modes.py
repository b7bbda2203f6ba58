"""Modes of torch that a caller may be in, and what callers do with tensors on a device."""

import copy
import io
from pathlib import Path

import safetensors.torch
import torch

from tests.checkpoints import raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import MIB, load, wrong


@emulated_torch(modes=("lazy",))
def test_a_caller_in_inference_mode_gets_tensors_that_can_be_trained(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.init()
    with torch.inference_mode():
        loaded, host = load(checkpoint), load(checkpoint, "cpu")
    for tensors, device in ((loaded, "cuda:0"), (host, "cpu")):
        assert wrong(tensors, device) == []
        assert [name for name, tensor in tensors.items() if tensor.is_inference()] == []
        tensors["t3"].view(torch.float32).requires_grad_()


@emulated_torch(modes=("lazy",))
def test_a_default_device_does_not_matter(emulator: Emulator, checkpoint: Path) -> None:
    for default in ("cuda", "meta"):
        with torch.device(default):
            assert wrong(load(checkpoint, "cuda")) == []
            assert wrong(load(checkpoint, "cpu"), "cpu") == []


@emulated_torch(modes=("lazy", "random"))
def test_a_module_is_loaded_by_assignment_and_by_copy(emulator: Emulator, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    stored = {"weight": torch.randn(65, 33, generator=generator), "bias": torch.randn(65, generator=generator)}
    safetensors.torch.save_file(stored, tmp_path / "module.safetensors")
    side = torch.cuda.Stream()
    for assign in (True, False):
        with torch.cuda.stream(side):
            module = torch.nn.utils.skip_init(torch.nn.Linear, 33, 65, device="cuda")
            module.load_state_dict(load(tmp_path / "module.safetensors"), assign=assign)
        side.synchronize()
        assert {name: raw(value.cpu()) for name, value in module.state_dict().items()} == {
            name: raw(value) for name, value in stored.items()
        }
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in module.parameters())


@emulated_torch(modes=("lazy", "random"))
def test_copies_and_saved_files_hold_the_same_bytes(emulator: Emulator, checkpoint: Path, tmp_path: Path) -> None:
    loaded = load(checkpoint)
    assert wrong(copy.deepcopy(loaded)) == []
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    buffer.seek(0)
    assert wrong(torch.load(buffer)) == []
    safetensors.torch.save_file(loaded, tmp_path / "again.safetensors")
    assert wrong(load(tmp_path / "again.safetensors")) == []


@emulated_torch(modes=("lazy",))
def test_one_saved_tensor_is_saved_alone(emulator: Emulator, checkpoint: Path) -> None:
    buffer = io.BytesIO()
    torch.save(load(checkpoint)["t0"], buffer)
    assert buffer.getbuffer().nbytes < 2 * MIB


@emulated_torch(modes=("lazy",))
def test_tensors_may_be_changed_in_place_by_what_needs_a_gradient(emulator: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "floats.safetensors"
    safetensors.torch.save_file({"a": torch.ones(4), "b": torch.ones(4, dtype=torch.bfloat16)}, path)
    for tensor in load(path).values():
        tensor.mul_(torch.full((1,), 2, dtype=tensor.dtype, device="cuda", requires_grad=True))
        assert tensor.tolist() == [2.0] * 4
        assert tensor.requires_grad


@emulated_torch(modes=("lazy",))
def test_tensors_may_be_detached_in_place(emulator: Emulator, checkpoint: Path) -> None:
    for tensor in load(checkpoint).values():
        tensor.detach_()
