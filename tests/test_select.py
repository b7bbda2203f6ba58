"""`select`, as ranks use it: each its own part, equal to slicing the whole tensor, for the bytes of the part."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runai_model_streamer import RunaiStreamerMemoryLimitException, SafetensorsStreamer, TensorShard, TensorSlice
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS
from runai_model_streamer.errors import ArgumentError, UnsupportedDtypeError
from runai_model_streamer.pipeline.plan.selection import Select
from tests.checkpoints import Stored, encode, join_ours, numbered, our_threads, raw, stored, write
from tests.gaps import reading_over
from tests.servers import FaultServer

RANKS = 4


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def streamed(*paths: Path | str, **arguments: Any) -> dict[str, torch.Tensor]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **arguments)
        return dict(streamer.get_tensors())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they are equal to the bit: random bytes are NaNs, too."""
    return (one.dtype, one.shape, raw(one)) == (other.dtype, other.shape, raw(other))


def sliced(whole: Stored, dim: int, start: int, stop: int) -> bytes:
    """What slicing the whole tensor gives, by NumPy."""
    bits, shape = DTYPE_BITS[whole.dtype], list(whole.shape)
    if bits < 8:
        shape[-1] = shape[-1] * bits // 8
        if dim % len(shape) == len(shape) - 1:
            start, stop = start * bits // 8, stop * bits // 8
    elements = np.frombuffer(whole.data, np.dtype((np.void, max(bits // 8, 1)))).reshape(shape)
    return np.take(elements, range(start, stop), dim).tobytes()


DTYPES = ["U8", "BOOL", "BF16", "F8_E4M3", "F32", "I64", "C64"]
DTYPES += ["F4"] * hasattr(torch, "float4_e2m1fn_x2")


@st.composite
def parts(draw: st.DrawFn) -> tuple[Stored, TensorSlice]:
    """A tensor and a slice of it."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    step = 1
    if dtype == "F4":
        shape[-1] *= 2
    dim = draw(st.integers(0, len(shape) - 1))
    if dtype == "F4" and dim == len(shape) - 1:
        step = 2
    start = draw(st.integers(0, shape[dim] // step)) * step
    stop = draw(st.integers(start // step, shape[dim] // step)) * step
    sign = draw(st.sampled_from([0, len(shape)]))
    return stored(dtype, shape, draw(st.integers(0, 99))), TensorSlice(dim - sign, start, stop)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.lists(parts(), min_size=1, max_size=6),
    gap=st.sampled_from([0, 3, 64 << 10]),
    limit=st.sampled_from(["-1", "0"]),
)
def test_a_part_equals_slicing_the_whole_tensor(
    tensors: list[tuple[Stored, TensorSlice]], gap: int, limit: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m", {f"t{index}": each for index, (each, _) in enumerate(tensors)})
    wanted = {f"t{index}": part for index, (_, part) in enumerate(tensors)}
    with pytest.MonkeyPatch.context() as patch, reading_over(gap), SafetensorsStreamer() as streamer:
        patch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        streamer.stream_file(path, select=wanted)
        metadata = streamer.files_to_tensors_metadata[0]
        found = list(streamer.get_tensors())
        assert streamer.total_size == sum(len(raw(tensor)) for _, tensor in found)
    assert [name for name, _ in found] == [each.name for each in metadata] == list(wanted)
    for (name, tensor), info, (whole, part) in zip(found, metadata, tensors, strict=True):
        assert raw(tensor) == sliced(whole, *part), name
        shape = list(whole.shape)
        shape[part.dim] = part.stop - part.start
        assert list(info.shape) == shape
        shape[-1] //= 2 if whole.dtype == "F4" else 1
        assert list(tensor.shape) == shape
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == info.nbytes == tensor.nbytes


@pytest.fixture
def stacked(tmp_path: Path) -> Path:
    """Three experts' matrices of 600 x 300 KB in one tensor, a vector, and a matrix with short rows."""
    return write(
        tmp_path / "stacked",
        {
            "experts": stored("BF16", (3, 600, 150), 1),
            "norm": stored("F32", (600,), 2),
            "down": stored("BF16", (600, 150), 3),
        },
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_the_ranks_parts_are_torchs_chunks(stacked: Path, dim: int, world: int) -> None:
    whole = streamed(stacked)
    for rank in range(world):
        found = streamed(stacked, select={"experts": TensorShard(dim, rank, world)})
        chunks = torch.chunk(whole["experts"], world, dim)
        expected = chunks[rank] if rank < len(chunks) else whole["experts"].narrow(dim, 0, 0)
        assert same(found["experts"], expected)
        assert same(found["norm"], whole["norm"])


def test_a_rank_gets_its_experts_only(stacked: Path) -> None:
    found = streamed(stacked, select=lambda name: TensorSlice(0, 1, 2) if name == "experts" else name == "norm")
    assert list(found) == ["experts", "norm"]
    assert same(found["experts"], streamed(stacked)["experts"][1:2])


def test_select_is_asked_for_the_named_tensors_only(stacked: Path) -> None:
    asked = []

    def select(name: str) -> TensorSlice:
        asked.append(name)
        return TensorSlice(0, 0, 1)

    assert [tuple(each.shape) for each in streamed(stacked, tensor_names=["norm"], select=select).values()] == [(1,)]
    assert asked == ["norm"]


def test_nothing_wanted_is_an_ordinary_load(stacked: Path) -> None:
    assert streamed(stacked, select=lambda _: None) == {}


@pytest.mark.parametrize("gap", [64 << 10, 0])
def test_parts_are_cast_too(stacked: Path, gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    with reading_over(gap):
        whole = streamed(stacked)
        found = streamed(stacked, dtype=torch.float32, select={"experts": (2, 3, 77), "down": (1, 149, 150)})
    assert same(found["experts"], whole["experts"][:, :, 3:77].float())
    assert same(found["down"], whole["down"][:, 149:].float())
    assert found["norm"].dtype == torch.float32


def test_parts_made_in_inference_mode_can_be_trained(stacked: Path) -> None:
    with torch.inference_mode():
        found = streamed(stacked, select={"down": (1, 0, 10), "norm": (0, 0, 10)})
    assert not found["down"].is_inference()
    found["down"].requires_grad_()


def test_parts_go_where_the_caller_wants_them_whatever_torchs_default_device_is(stacked: Path) -> None:
    torch.set_default_device("meta")
    try:
        found = streamed(stacked, select={"experts": (1, 0, 300), "down": (1, 0, 10)})
    finally:
        torch.set_default_device(None)
    assert {each.device.type for each in found.values()} == {"cpu"}


def test_a_part_that_a_tensor_does_not_have_is_refused_before_anything_is_read(stacked: Path) -> None:
    with (
        SafetensorsStreamer() as streamer,
        pytest.raises(ArgumentError, match=r"stacked: tensor 'norm' of shape \[600\]: select gives .*stop=601"),
    ):
        streamer.stream_file(stacked, select={"norm": TensorSlice(0, 0, 601)})


def test_what_a_callers_function_raises_reaches_the_caller(stacked: Path) -> None:
    with SafetensorsStreamer() as streamer, pytest.raises(ZeroDivisionError):
        streamer.stream_file(stacked, select=lambda name: TensorSlice(0, 0, len(name) // 0))


def test_a_tensor_that_torch_cannot_hold_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"a": stored("F6_E2M3", (4,)), **numbered([3])})
    assert list(streamed(path, select={"a": None})) == ["t0"]
    with pytest.raises(UnsupportedDtypeError):
        streamed(path, select={"a": (0, 0, 4)})


def test_the_limit_counts_what_is_read_at_once_and_what_is_made_of_it(
    stacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made = (600 * 150 - 140) * 2, 600 * 10 * 2
    select = {"experts": None, "down": (1, 0, 10)}
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(read + made))
    assert same(streamed(stacked, select=select)["down"], streamed(stacked, tensor_names=["down"])["down"][:, :10])
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(read + made - 1))
    with pytest.raises(RunaiStreamerMemoryLimitException, match=f"'down'.*{made}.*set it to {read + made} or more"):
        streamed(stacked, select=select)


def test_rows_may_be_more_than_the_limit_leaves_of_the_whole_tensor(
    stacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "200000")
    found = streamed(stacked, select={"experts": (0, 2, 3)})
    assert tuple(found["experts"].shape) == (1, 600, 150)


def test_a_load_of_parts_that_is_left_early_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    path = write(tmp_path / "m", {f"t{index}": stored("U8", (3000, 1000)) for index in range(4)})
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, select=lambda _: TensorSlice(1, 0, 500))
        tensors = streamer.get_tensors()
        next(tensors)
        del tensors
        join_ours()
        assert our_threads() == []


# Over S3, where a byte that is not needed costs most.


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


MATRIX = (2048, 2048)  # of BF16: 8 MiB
MODEL = {f"layers.{layer}.{name}": stored("BF16", MATRIX, layer) for layer in range(2) for name in ("up", "gate")}
MODEL |= {f"layers.{layer}.norm": stored("BF16", (2048,), layer) for layer in range(2)}


def tensor_parallel(url: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """As the README shows it."""

    def select(name: str) -> TensorShard | bool:
        if name.endswith((".up", ".gate")):
            return TensorShard(0, rank, world_size)
        return True

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(url, select=select)
        return dict(streamer.get_tensors())


def test_a_tensor_parallel_rank_fetches_little_more_than_its_share(server: FaultServer) -> None:
    server.put("models", "m.safetensors", encode(MODEL))
    share = sum(len(each.data) // (RANKS if len(each.shape) == 2 else 1) for each in MODEL.values())
    for rank in range(RANKS):
        server.clear()
        found = tensor_parallel("s3://models/m.safetensors", rank, RANKS)
        assert server.bytes_served <= 1.1 * share
        for name, whole in MODEL.items():
            rows = MATRIX[0] // RANKS
            expected = sliced(whole, 0, rank * rows, (rank + 1) * rows) if len(whole.shape) == 2 else whole.data
            assert raw(found[name]) == expected


def test_long_rows_are_fetched_one_by_one_and_put_together(server: FaultServer) -> None:
    experts = stored("U8", (4, 3, 1 << 20), 5)
    server.put("models", "m.safetensors", encode({"experts": experts}))
    server.clear()
    found = streamed("s3://models/m.safetensors", select={"experts": TensorSlice(1, 1, 2)})
    assert raw(found["experts"]) == sliced(experts, 1, 1, 2)
    assert server.bytes_served <= 1.1 * math.prod(experts.shape) / 3


def test_parts_of_several_files_come_in_the_order_given(server: FaultServer, tmp_path: Path) -> None:
    first, second = numbered([10, 20], "a"), numbered([30, 40], "b")
    server.put("models", "b.safetensors", encode(second))
    select: Select = {"a0": (0, 1, 3), "a1": None, "b1": (0, 39, 40)}
    found = streamed(write(tmp_path / "a", first), "s3://models/b.safetensors", select=select)
    assert {name: raw(tensor) for name, tensor in found.items()} == {
        "a0": first["a0"].data[1:3],
        "b0": second["b0"].data,
        "b1": second["b1"].data[39:],
    }
