"""`safe_open` and `load_file`, next to those of the library safetensors."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from runai_model_streamer import load_file, safe_open
from runai_model_streamer.errors import (
    ArgumentError,
    HeaderError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StateError,
)
from tests.checkpoints import our_threads, stored, write
from tests.servers import FaultServer

MANY = (5000, 2000)
"""A shape of 40 MB: more than one read."""


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "z.large": torch.randn(MANY, generator=generator),
        "a.small": torch.randn((7, 5, 3), generator=generator).to(torch.bfloat16),
        "b.bytes": torch.arange(10, dtype=torch.uint8),
        "c.scalar": torch.tensor(3.5, dtype=torch.float64),
        "d.empty": torch.empty((0, 4)),
    }


@pytest.fixture(scope="module")
def model(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt", "step": "7"})
    return path


@pytest.fixture(params=["file", "object"])
def place(
    request: pytest.FixtureRequest, model: Path, monkeypatch: pytest.MonkeyPatch, aws_files: None
) -> Iterator[str]:
    if request.param == "file":
        yield str(model)
        return
    with FaultServer() as server:
        server.put("bucket", "model.safetensors", model.read_bytes())
        variables = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/model.safetensors"


def test_a_file_is_a_dict_of_its_tensors(place: str, tensors: dict[str, torch.Tensor]) -> None:
    loaded = load_file(place)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_each_tensor_comes_by_its_name(place: str, tensors: dict[str, torch.Tensor]) -> None:
    with safe_open(place, framework="pt", device="cpu") as file:
        for name, tensor in tensors.items():
            found = file.get_tensor(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found, tensor)
            found.add_(1)
    assert our_threads() == []


def test_all_tensors_come_at_once(place: str, tensors: dict[str, torch.Tensor]) -> None:
    with safe_open(place) as file:
        found = file.get_tensors()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert our_threads() == []


@pytest.mark.parametrize("index", [slice(2, 4), 3, (slice(None), slice(0, 2)), (..., -1), (slice(0, 7, 3), 1), ...])
def test_a_slice_is_what_torch_cuts(place: str, tensors: dict[str, torch.Tensor], index: object) -> None:
    with safe_open(place) as file:
        found = file.get_slice("a.small")
        assert (found.get_shape(), found.get_dtype()) == ([7, 5, 3], "BF16")
        part = found[index]
    assert torch.equal(part, tensors["a.small"][index])  # type: ignore[index]
    assert part.is_contiguous()


def test_a_column_of_a_large_tensor(place: str, tensors: dict[str, torch.Tensor]) -> None:
    with safe_open(place) as file:
        assert torch.equal(file.get_slice("z.large")[:, 10:12], tensors["z.large"][:, 10:12])


def test_a_part_keeps_no_more_memory_than_its_own(model: Path) -> None:
    with safe_open(model) as file:
        assert file.get_slice("a.small")[1:5:2, 0].untyped_storage().nbytes() == 2 * 3 * 2


def test_what_is_read_in_inference_mode_can_be_trained(model: Path) -> None:
    with torch.inference_mode(), safe_open(model) as file:
        found = [file.get_tensor("a.small"), file.get_slice("a.small")[...], file.get_slice("a.small")[1:3]]
    for tensor in found:
        tensor.requires_grad_().sum().backward()
        assert tensor.grad is not None
        assert tensor.detach_() is tensor  # autograd refuses that for a view


def test_names_and_metadata_are_those_of_safetensors(model: Path) -> None:
    with safe_open(model) as ours, safetensors.safe_open(model, framework="pt") as theirs:
        assert ours.keys() == list(theirs.keys())
        assert ours.offset_keys() == list(theirs.offset_keys())
        assert ours.metadata() == theirs.metadata() == {"format": "pt", "step": "7"}
        assert list(ours) == ours.keys()
        assert "a.small" in ours
        assert "none" not in ours


def test_no_metadata_is_none(tmp_path: Path) -> None:
    with safe_open(write(tmp_path / "m.safetensors", {"t": stored("F32", [2])})) as file:
        assert file.metadata() is None


def test_a_tensor_that_is_not_there_is_said_with_the_path(model: Path) -> None:
    with safe_open(model) as file, pytest.raises(ArgumentError) as caught:
        file.get_tensor("none")
    assert str(caught.value) == f"{model}: has no tensor 'none'; keys() lists the names"
    with safe_open(model) as file, pytest.raises(ArgumentError):
        file.get_slice("none")


def test_a_closed_file_says_so(model: Path) -> None:
    file = safe_open(model)
    file.close()
    file.close()
    with pytest.raises(StateError, match="closed"):
        file.get_tensor("a.small")


@pytest.mark.parametrize("name", ["z.large", "a.small"])
def test_a_file_that_was_written_to_is_said(model: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(model.read_bytes())
    with safe_open(copy) as file:
        with copy.open("r+b") as other:
            other.seek(-1, os.SEEK_END)
            other.write(b"x")
        with pytest.raises(SourceChangedError):
            file.get_tensor(name)


@pytest.mark.parametrize("name", ["z.large", "a.small"])
def test_a_read_that_fails_names_path_and_tensor(model: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(model.read_bytes())
    with safe_open(copy) as file:
        os.truncate(copy, 5000)
        with pytest.raises(ReadError, match=str(copy)):
            file.get_tensor(name)
    assert our_threads() == []


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(HeaderError):
        safe_open(tmp_path / "m.safetensors")
    with pytest.raises(NotFoundError):
        safe_open(tmp_path / "none.safetensors")
    with pytest.raises(ArgumentError, match="numpy"):
        safe_open(tmp_path / "m.safetensors", framework="numpy")


def test_a_file_that_is_dropped_is_closed(model: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = safe_open(model)
    del file
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
