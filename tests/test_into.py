"""`into`: values land in tensors that exist. Each is filled whole or not at all; what does not fit changes nothing."""

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, TensorSlice
from runai_model_streamer.checkpoint.tensor_info import torch_dtype
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, StreamerError, TruncatedError
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.landing.into import placed
from tests.checkpoints import Stored, encode, load_of, numbered, raw, stored, write
from tests.sources import MemorySource

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

MIB = 1 << 20
DTYPES = ["U8", "BOOL", "I8", "I16", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I32", "F32", "I64", "F64", "C64"]
DTYPES += [name for name in ("F8_E8M0", "F4", "U16", "U32", "U64") if torch_dtype(name) is not None]


def fill(into: Mapping[str, torch.Tensor], *paths: Path, **arguments: Any) -> list[str]:
    """Load into the tensors, and return the names in the order in which they came."""
    names = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, into=into, **arguments)
        for name, tensor in streamer.get_tensors():
            assert tensor is into[name]
            names.append(name)
    return names


def tensor_of(kept: Stored) -> torch.Tensor:
    dtype = torch_dtype(kept.dtype)
    assert dtype is not None
    if not kept.data:
        return torch.empty(kept.shape, dtype=dtype)
    shape = (*kept.shape[:-1], kept.shape[-1] // 2) if kept.dtype == "F4" else kept.shape
    return torch.frombuffer(bytearray(kept.data), dtype=dtype).view(shape)


def zeros(tensors: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """What has the shapes and dtypes of the tensors, and none of their bytes."""
    made = {}
    for name, kept in tensors.items():
        like = tensor_of(kept)
        made[name] = torch.zeros(raw_size(like), dtype=torch.uint8).view(like.dtype).view(like.shape)
    return made


def raw_size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def test_every_dtype_lands_in_the_memory_that_exists(tmp_path: Path) -> None:
    tensors = {dtype: stored(dtype, (6, 4), index) for index, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": stored("F32", ()), "empty": stored("BF16", (0, 3)), "large": stored("BF16", (9 * MIB,))}
    into = zeros(tensors)
    addresses = {name: tensor.data_ptr() for name, tensor in into.items()}
    assert fill(into, write(tmp_path / "a.safetensors", tensors)) == list(tensors)
    assert {name: raw(tensor) for name, tensor in into.items()} == {name: kept.data for name, kept in tensors.items()}
    assert {name: tensor.data_ptr() for name, tensor in into.items()} == addresses


def test_a_module_is_filled_and_can_still_be_trained(tmp_path: Path) -> None:
    module = torch.nn.Linear(4, 3)
    tensors = {"weight": stored("F32", (3, 4), 1), "bias": Stored("F32", (3,), b"\0\0\x80\x3f" * 3)}
    squared = (module.bias**2).sum()
    fill(dict(module.named_parameters()), write(tmp_path / "a.safetensors", tensors))
    assert module.bias.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()  # what was computed with the old values is not taken for new
    module(torch.ones(4)).sum().backward()
    assert module.bias.grad is not None


def test_a_tensor_may_be_strided_or_made_in_inference_mode(tmp_path: Path) -> None:
    tensors = {"strided": stored("I32", (5, 7)), "inference": stored("I32", (3,))}
    with torch.inference_mode():
        inference = torch.zeros(3, dtype=torch.int32)
    into = {"strided": torch.zeros(7, 5, dtype=torch.int32).t(), "inference": inference}
    fill(into, write(tmp_path / "a.safetensors", tensors))
    assert raw(into["strided"]) == tensors["strided"].data
    assert raw(into["inference"].clone()) == tensors["inference"].data


def test_values_are_cast_and_cut_on_the_way(tmp_path: Path) -> None:
    values = torch.arange(48, dtype=torch.float32).view(8, 6) / 7
    path = write(tmp_path / "a.safetensors", {"a": Stored("F32", (8, 6), raw(values))})
    into = {"a": torch.zeros(8, 2, dtype=torch.bfloat16)}
    fill(into, path, dtype=torch.bfloat16, select={"a": TensorSlice(1, 2, 4)})
    assert torch.equal(into["a"], values[:, 2:4].to(torch.bfloat16))


def test_memory_beside_the_tensors_stays_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(8 * MIB))
    tensors = numbered([3 * MIB] * 12)
    path, into = write(tmp_path / "a.safetensors", tensors), zeros(tensors)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, into=into)
        kept = list(streamer.get_tensors())
        assert 0 < streamer.report.peak_memory <= 8 * MIB
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in tensors.values()]


def test_tied_weights_are_filled_by_the_one_that_the_file_has(tmp_path: Path) -> None:
    tensors = {"embed": stored("BF16", (4, 4))}
    shared = torch.zeros(4, 4, dtype=torch.bfloat16)
    assert fill({"embed": shared, "lm_head": shared.detach()}, write(tmp_path / "a.safetensors", tensors)) == ["embed"]


def test_names_choose_what_is_filled(tmp_path: Path) -> None:
    tensors = {"a": stored("F32", (2,), 1), "b": stored("F32", (2,), 2)}
    path, into = write(tmp_path / "a.safetensors", tensors), zeros(tensors)
    assert fill(into, path, tensor_names=["b"]) == ["b"]
    assert (raw(into["a"]), raw(into["b"])) == (bytes(8), tensors["b"].data)


class _Distributed(torch.Tensor):
    def to_local(self) -> torch.Tensor:
        return self


F32 = torch.float32
UNFIT = {
    "a name that into lacks": ({"other": torch.zeros(2)}, {}, "into has no tensor for 'a'; pass the names to read as"),
    "a name that no file has": ({"a": torch.zeros(2), "b": torch.zeros(2)}, {}, "none of the 1 files has: 'b'; leave"),
    "shape": ({"a": torch.zeros(3)}, {}, "into['a'] has shape [3], and what is loaded has [2]; a part"),
    "dtype": (
        {"a": torch.zeros(2, dtype=torch.bfloat16)},
        {},
        "into['a'] has dtype torch.bfloat16, and what is loaded has torch.float32; dtype=torch.bfloat16 casts",
    ),
    "a cast that is not wanted": ({"a": torch.zeros(2)}, {"dtype": torch.float16}, "take two calls, with tensor_names"),
    "meta": ({"a": torch.zeros(2, device="meta")}, {}, "holds no bytes; give them memory first: model.to_empty"),
    "two devices": (
        {"a": torch.zeros(2), "b": torch.zeros(2, device="meta")},
        {},
        "the tensors of into are on cpu and meta; make a call for each device",
    ),
    "expanded": ({"a": torch.zeros(1).expand(2)}, {}, "has elements that share memory"),
    "conjugated": ({"a": torch.zeros(2, dtype=torch.complex64).conj()}, {}, "is not a plain strided tensor"),
    "sparse": ({"a": torch.zeros(2).to_sparse()}, {}, "is not a plain strided tensor"),
    "a DTensor": ({"a": torch.zeros(2).as_subclass(_Distributed)}, {}, "is a DTensor; pass its to_local()"),
    "nothing": ({}, {}, "into is empty: name the tensors to fill"),
    "a list": ([torch.zeros(2)], {}, "into is a mapping from names to tensors, not list; pass model.state_dict()"),
    "no tensor": ({"a": [0.0, 0.0]}, {}, "into maps names to tensors, not 'a' to list"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_said_before_anything_is_changed(tmp_path: Path, what: str) -> None:
    into: Any
    into, arguments, message = UNFIT[what]
    tensors = {"a": stored("F32", (2,), 5)}
    path = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises((ArgumentError, ArgumentTypeError), match=re.escape(message)):
        fill(into, path, **arguments)
    if isinstance(into, dict):
        held = [tensor for tensor in into.values() if isinstance(tensor, torch.Tensor) and not tensor.is_meta]
        assert not any(tensor.to_dense().any() for tensor in held)


def test_a_tensor_of_two_files_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, {"a": stored("F32", (2,))}) for name in ("1.safetensors", "2.safetensors")]
    with pytest.raises(ArgumentError, match=r"tensor 'a' is in .*1\.safetensors and in .*2\.safetensors"):
        fill({"a": torch.zeros(2)}, *paths)


class _Failing(MemorySource):
    """Fails at the first read that reaches `bad`."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__("model.safetensors", data)
        self._bad = bad

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        origin = super().read_into(offset, buffer)
        if offset <= self._bad < offset + len(buffer):
            buffer[:] = bytes(len(buffer))
            raise TruncatedError("model.safetensors: ends early")
        return origin


@pytest.mark.parametrize("seed", range(100))
def test_after_a_failure_each_tensor_is_wholly_new_or_wholly_old(seed: int) -> None:
    chance = random.Random(seed)
    tensors = {f"t{index}": stored("U8", (chance.randrange(1, 60_000),), index) for index in range(60)}
    data = encode(tensors)
    header = len(data) - sum(len(kept.data) for kept in tensors.values())
    into = zeros(tensors)
    load = load_of([_Failing(data, chance.randrange(header, len(data)))], chunk=4096 << chance.randrange(6))
    came: list[str] = []
    with pytest.raises(StreamerError) as caught:
        came.extend(name for name, _ in placed(load.tensors(), into, load.tally))
    new = [name for name, tensor in into.items() if raw(tensor) == tensors[name].data]
    old = [name for name, tensor in into.items() if not tensor.any()]
    assert new == list(tensors)[: len(new)]
    assert [*new, *old] == list(tensors)
    upto = f", up to {new[-1]!r}" if new else ""
    assert caught.value.__notes__ == [
        f"{len(new)} of 60 tensors of into have their new values{upto}. The others have the old ones."
    ]


def test_a_load_that_is_left_keeps_what_it_filled(tmp_path: Path) -> None:
    tensors = numbered([100] * 5)
    path, into = write(tmp_path / "a.safetensors", tensors), zeros(tensors)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, into=into)
        left: Iterator[tuple[str, torch.Tensor]] = streamer.get_tensors()
        assert next(left)[0] == "t0"
    assert raw(into["t0"]) == tensors["t0"].data
    assert not any(into[name].any() for name in ("t1", "t4"))
