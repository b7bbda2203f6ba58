import copy
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, TensorInfo
from runai_model_streamer.errors import UnsupportedDtypeError
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.landing.tensors import BATCH, check_dtypes, make_tensors, tensor_of
from runai_model_streamer.pipeline.memory.slabs import Bytes, Slab
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile, plan_groups, steps_of
from tests.checkpoints import Stored, encode, raw, stored
from tests.sources import MemorySource

TORCH_LACKS = ["F6_E2M3", "F6_E3M2"]
# The oracle that reads from memory does not know these; the one that reads files does.
ONLY_FROM_FILES = {"F4", "F8_E8M0"}


def landed(data: bytes) -> tuple[list[tuple[str, torch.Tensor]], Bytes]:
    """The tensors of a file whose bytes have landed as planned, and the memory under them."""
    tensors = read_header(MemorySource("m", data)).tensors
    check_dtypes("m", tensors)
    files = [PlannedFile(len(data), SourceKind.FILE, 1, 1 << 20, tensors)]
    (group,) = plan_groups(files)
    slab = Slab(max(group.footprint, 4096))
    memory = slab.memory()
    for step in steps_of(group, files):
        memory[step.position : step.position + step.length] = data[step.offset : step.offset + step.length]
    root = slab.root()
    return [item for batch in make_tensors(group, root) for item in batch], root


def tensors_of(tensors: Mapping[str, Stored], data_start: int | None = None) -> dict[str, torch.Tensor]:
    return dict(landed(encode(tensors, data_start=data_start))[0])


def version_of(tensor: torch.Tensor) -> int:
    """How often autograd has seen it change in place."""
    return tensor._version  # noqa: SLF001 - there is no other way to ask


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Bit for bit, so that NaNs are equal to themselves."""
    return (ours.dtype, ours.shape, raw(ours)) == (theirs.dtype, theirs.shape, raw(theirs))


# Every dtype.


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(TORCH_LACKS) - ONLY_FROM_FILES))
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2), (0,), (4, 0, 3)], ids=str)
def test_a_tensor_equals_the_one_of_safetensors_own_loader(dtype: str, shape: tuple[int, ...]) -> None:
    data = encode({"before": stored("U8", (3,)), "t": stored(dtype, shape, seed=1)})
    assert same(dict(landed(data)[0])["t"], safetensors.torch.load(data)["t"])


@pytest.mark.parametrize("dtype", sorted(ONLY_FROM_FILES))
@pytest.mark.parametrize("shape", [(8,), (3, 5, 2), (2, 0)], ids=str)
def test_a_tensor_equals_the_one_that_safetensors_reads_from_a_file(
    dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    data = encode({"t": stored(dtype, shape)})
    (tmp_path / "m").write_bytes(data)
    with safe_open(tmp_path / "m", "pt") as theirs:
        assert same(dict(landed(data)[0])["t"], theirs.get_tensor("t"))


def test_two_packed_numbers_are_one_element() -> None:
    tensor = tensors_of({"t": stored("F4", (3, 8))})["t"]
    assert tensor.dtype is torch.float4_e2m1fn_x2
    assert tensor.shape == (3, 4)
    assert tensor.untyped_storage().nbytes() == 12


@pytest.mark.parametrize("dtype", TORCH_LACKS)
def test_a_dtype_that_torch_lacks_is_an_error_that_names_it_and_the_tensor(dtype: str) -> None:
    tensors = read_header(MemorySource("m", encode({"t": stored(dtype, (4,))}))).tensors
    with pytest.raises(UnsupportedDtypeError, match=f"m: tensor 't' has dtype {dtype}") as raised:
        check_dtypes("m", tensors)
    assert isinstance(raised.value, ValueError)


def test_a_packed_tensor_whose_last_dimension_is_odd_is_an_error() -> None:
    tensors = read_header(MemorySource("m", encode({"t": stored("F4", (4, 3))}))).tensors
    with pytest.raises(UnsupportedDtypeError, match=r"tensor 't' of dtype F4 has shape \[4, 3\]"):
        check_dtypes("m", tensors)


def test_torch_has_all_other_dtypes_of_the_format() -> None:
    tensors = read_header(MemorySource("m", encode({name: stored(name, (8,)) for name in DTYPE_BITS}))).tensors
    check_dtypes("m", [tensor for tensor in tensors if tensor.dtype not in TORCH_LACKS])


# Any place and shape.


@pytest.mark.parametrize("shift", range(1, 9))
@pytest.mark.parametrize("dtype", ["BOOL", "BF16", "F32", "I64", "C64", "F8_E4M3"])
def test_a_tensor_is_right_wherever_it_lies(dtype: str, shift: int) -> None:
    tensors = {"first": stored("U8", (shift,)), "t": stored(dtype, (5, 3), seed=1), "scalar": stored(dtype, (), 2)}
    made = tensors_of(tensors)
    assert raw(made["t"]) == tensors["t"].data
    assert raw(made["scalar"]) == tensors["scalar"].data
    assert made["t"].shape == (5, 3)
    assert made["scalar"].shape == ()
    assert made["t"].data_ptr() % made["t"].itemsize == 0


def test_a_header_of_odd_length_does_not_matter() -> None:
    tensors = {"t": stored("F64", (4,))}
    for data_start in range(100, 108):
        assert raw(tensors_of(tensors, data_start)["t"]) == tensors["t"].data


def test_tensors_may_have_more_dimensions_than_numpy_has() -> None:
    shape = (1,) * 70 + (3,)
    tensors = {"t": stored("F32", shape)}
    made = tensors_of(tensors)["t"]
    assert made.shape == shape
    assert raw(made) == tensors["t"].data


def test_zero_size_tensors_have_their_shape() -> None:
    made = tensors_of({"a": stored("F32", (0,)), "b": stored("BF16", (3, 0, 7)), "c": stored("F4", (2, 0))})
    assert {name: tuple(tensor.shape) for name, tensor in made.items()} == {"a": (0,), "b": (3, 0, 7), "c": (2, 0)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(set(DTYPE_BITS) - set(TORCH_LACKS) - ONLY_FROM_FILES)),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=12,
    ),
    st.integers(0, 7),
)
def test_any_mix_of_tensors_equals_safetensors_own(kinds: list[tuple[str, list[int]]], shift: int) -> None:
    tensors = {f"t{index}": stored(dtype, shape, index) for index, (dtype, shape) in enumerate(kinds)}
    data = encode(tensors, data_start=2000 + shift)
    theirs = safetensors.torch.load(data)
    if tensors:
        ours = landed(data)[0]
        assert [name for name, _ in ours] == list(tensors)
        assert [name for name, tensor in ours if not same(tensor, theirs[name])] == []


@pytest.mark.parametrize("dtype", ["BF16", "F32", "U8", "BOOL"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (1, 5)], ids=str)
@pytest.mark.parametrize("odd", [None, ("F32", (4,)), ("BF16", (2, 4)), ("U8", (0,))], ids=str)
def test_tensors_of_one_form_equal_safetensors_own_wherever_another_is_among_them(
    dtype: str, shape: tuple[int, ...], odd: tuple[str, tuple[int, ...]] | None
) -> None:
    tensors = {f"t{index:03}": stored(dtype, shape, seed=index) for index in range(BATCH + 9)}
    if odd is not None:
        tensors["t007"] = stored(*odd)
    data = encode(tensors)
    ours, theirs = dict(landed(data)[0]), safetensors.torch.load(data)
    assert list(ours) == list(tensors)
    assert all(same(ours[name], theirs[name]) for name in tensors)
    assert all(tensor.untyped_storage().nbytes() == len(raw(tensor)) for tensor in ours.values())


@pytest.mark.parametrize("others", [("BF16", (2, 3)), ("F16", (3, 2)), ("BF16", (6,))], ids=str)
def test_tensors_of_as_many_bytes_keep_their_own_form(others: tuple[str, tuple[int, ...]]) -> None:
    tensors = {f"t{index}": stored(*(("BF16", (3, 2)) if index % 2 else others), seed=index) for index in range(8)}
    data = encode(tensors)
    ours, theirs = dict(landed(data)[0]), safetensors.torch.load(data)
    assert all(same(ours[name], theirs[name]) for name in tensors)


def test_many_tensors_come_in_batches_in_order() -> None:
    count = 3 * BATCH + 1
    tensors = {f"t{index}": stored("U8", (2,), index) for index in range(count)}
    made, _ = landed(encode(tensors))
    assert [name for name, _ in made] == list(tensors)
    assert [raw(tensor) for _, tensor in made] == [tensor.data for tensor in tensors.values()]


# What the caller may do with them.


@pytest.fixture
def pair() -> dict[str, torch.Tensor]:
    """Two neighbours: one of a dtype that NumPy has, one of a dtype that it has not."""
    return tensors_of({"a": stored("F32", (4,)), "b": stored("BF16", (1000,))})


def test_each_tensor_has_a_storage_of_its_own_bytes(pair: dict[str, torch.Tensor]) -> None:
    assert [tensor.untyped_storage().nbytes() for tensor in pair.values()] == [16, 2000]
    assert [tensor.storage_offset() for tensor in pair.values()] == [0, 0]
    assert [tensor.untyped_storage().data_ptr() == tensor.data_ptr() for tensor in pair.values()] == [True, True]


def test_a_tensor_lies_over_the_bytes_that_were_read() -> None:
    made, root = landed(encode({"a": stored("F32", (4,)), "b": stored("BF16", (1000,))}))
    first = root.__array_interface__["data"][0]
    assert all(first <= tensor.data_ptr() < first + len(root) for _, tensor in made)


def test_saving_a_small_tensor_writes_no_more_than_it(pair: dict[str, torch.Tensor]) -> None:
    file = io.BytesIO()
    torch.save(pair["a"], file)
    assert file.tell() < 1900
    file.seek(0)
    assert same(torch.load(file), pair["a"])


def test_a_deep_copy_is_small_and_apart(pair: dict[str, torch.Tensor]) -> None:
    copied = copy.deepcopy(pair["a"])
    assert copied.untyped_storage().nbytes() == 16
    copied.zero_()
    assert not same(copied, pair["a"])


def test_changing_a_tensor_in_place_does_not_touch_its_neighbour(pair: dict[str, torch.Tensor]) -> None:
    before, version = raw(pair["b"]), version_of(pair["b"])
    pair["a"].fill_(1.0)
    assert pair["a"].tolist() == [1.0] * 4
    assert raw(pair["b"]) == before
    assert version_of(pair["b"]) == version


def test_sharing_a_tensor_does_not_share_its_neighbour(pair: dict[str, torch.Tensor]) -> None:
    before = raw(pair["a"])
    pair["a"].share_memory_()
    assert pair["a"].is_shared()
    assert not pair["b"].is_shared()
    assert raw(pair["a"]) == before


def test_tensors_are_plain_contiguous_and_ask_for_no_gradient(pair: dict[str, torch.Tensor]) -> None:
    for tensor in pair.values():
        assert type(tensor) is torch.Tensor
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.is_leaf


def test_a_tensor_can_be_trained(pair: dict[str, torch.Tensor]) -> None:
    weight = torch.nn.Parameter(pair["a"])
    (weight.nan_to_num() * 2).sum().backward()
    assert weight.grad is not None


# The caller's modes.

_KINDS = {
    "aligned": stored("F32", (4,)),
    "viewed": stored("BF16", (3,)),
    "unaligned": stored("F64", (3,)),
    "empty": stored("F16", (0, 2)),
    "scalar": stored("I16", ()),
}


def _as_plain(made: Mapping[str, torch.Tensor]) -> bool:
    return {name: (raw(tensor), tuple(tensor.shape)) for name, tensor in made.items()} == {
        name: (tensor.data, tensor.shape) for name, tensor in _KINDS.items()
    } and {tensor.device.type for tensor in made.values()} == {"cpu"}


def test_inference_mode_makes_no_inference_tensors() -> None:
    with torch.inference_mode():
        made = tensors_of(_KINDS)
    assert [name for name, tensor in made.items() if tensor.is_inference()] == []
    assert _as_plain(made)
    for tensor in made.values():
        tensor.zero_()


def test_the_callers_modes_are_its_own_between_tensors() -> None:
    data = encode({f"t{index}": stored("U8", (1,)) for index in range(2 * BATCH)})
    tensors = read_header(MemorySource("m", data)).tensors
    (group,) = plan_groups([PlannedFile(len(data), SourceKind.FILE, 1, 1 << 20, tensors)])
    root = Slab(4096).root()
    with torch.inference_mode():
        for _ in make_tensors(group, root):
            assert torch.is_inference_mode_enabled()
    for _ in make_tensors(group, root):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_a_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        made = tensors_of(_KINDS)
    assert _as_plain(made)


def test_a_global_default_device_does_not_matter() -> None:
    torch.set_default_device("meta")
    try:
        made = tensors_of(_KINDS)
    finally:
        torch.set_default_device(None)
    assert _as_plain(made)


def test_a_default_dtype_does_not_matter() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made = tensors_of(_KINDS)
    finally:
        torch.set_default_dtype(before)
    assert made["aligned"].dtype is torch.float32
    assert _as_plain(made)


def test_a_header_in_another_order_than_the_data_gives_tensors_in_file_order() -> None:
    tensors = {"a": stored("F32", (2,)), "b": stored("U8", (3,)), "c": stored("I16", (5,))}
    data = encode(tensors, header_order=["c", "a", "b"])
    header = data[8 : data.index(b"}}") + 2]
    assert list(json.loads(header)) == ["c", "a", "b"]
    made, _ = landed(data)
    assert [name for name, _ in made] == ["a", "b", "c"]
    assert {name: raw(tensor) for name, tensor in made} == {name: tensor.data for name, tensor in tensors.items()}


# In a block of torch's, whose storage they share.


def block_of(tensors: Mapping[str, Stored], data_start: int | None = None) -> tuple[Group, torch.Tensor]:
    """A group, and a block of torch's that its bytes have landed in."""
    data = encode(tensors, data_start=data_start)
    files = [PlannedFile(len(data), SourceKind.FILE, 1, 1 << 20, read_header(MemorySource("m", data)).tensors)]
    (group,) = plan_groups(files)
    block = torch.zeros(max(group.footprint, 4096), dtype=torch.uint8)
    memory = block.numpy().data
    for step in steps_of(group, files):
        memory[step.position : step.position + step.length] = data[step.offset : step.offset + step.length]
    return group, block


def sharing(tensors: Mapping[str, Stored], data_start: int | None = None) -> tuple[dict[str, torch.Tensor], int]:
    """As `tensors_of`, of a block of torch's; and where the block's storage begins."""
    group, block = block_of(tensors, data_start)
    return dict(item for batch in make_tensors(group, block) for item in batch), block.data_ptr()


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - set(TORCH_LACKS)))
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2), (0,), (4, 0, 3), (1,) * 39 + (2,)], ids=str)
def test_every_dtype_and_shape_is_made_in_a_block(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype == "F4":
        shape = (*shape, 2)
    file = {"first": stored("U8", (16,)), "t": stored(dtype, shape, 1), "last": stored("U8", (3,))}
    made, storage = sharing(file, data_start=1024)
    ours, plain = made["t"], tensors_of(file, data_start=1024)["t"]
    assert same(ours, plain)
    assert raw(ours) == file["t"].data
    assert ours.is_contiguous()
    if ours.numel():
        assert ours.untyped_storage().data_ptr() == storage


@pytest.mark.parametrize("data_start", [1024, 1025, 1026, 1028])
def test_a_tensor_that_does_not_lie_as_its_dtype_expects_is_copied_out_of_the_block(data_start: int) -> None:
    file = {"f64": stored("F64", (5,)), "bf16": stored("BF16", (5,), 1), "u8": stored("U8", (5,), 2)}
    made, storage = sharing(file, data_start=data_start)
    assert {name: raw(tensor) for name, tensor in made.items()} == {name: each.data for name, each in file.items()}
    inside = {name for name, tensor in made.items() if tensor.untyped_storage().data_ptr() == storage}
    assert inside == {"u8"} | ({"bf16"} if data_start % 2 == 0 else set()) | ({"f64"} if data_start % 8 == 0 else set())


def test_tensors_of_a_block_change_in_place_each_for_itself() -> None:
    made, _ = sharing({"a": stored("F32", (4,)), "b": stored("F32", (4,), 1)})
    kept, before = made["b"].clone(), version_of(made["b"])
    made["a"].fill_(1)
    assert version_of(made["b"]) == before
    assert same(made["b"], kept)
    # As leaves of autograd, and as what autograd follows through a change in place.
    weight = torch.ones(4, requires_grad=True)
    (made["a"].mul_(weight).sum() + made["b"].requires_grad_().sum()).backward()
    assert weight.grad is not None
    assert made["b"].grad is not None


def test_the_callers_modes_do_not_reach_tensors_of_a_block() -> None:
    file = {
        "a": stored("F32", (4,)),
        "b": stored("F32", (0,)),
        "c": stored("U8", (1,)),
        "unaligned": stored("F32", (4,)),
    }
    group, block = block_of(file)
    with torch.inference_mode(), torch.device("meta"):
        made = [tensor for batch in make_tensors(group, block) for _, tensor in batch]
    assert len(made) == 4
    assert not any(tensor.is_inference() or tensor.requires_grad or tensor.device.type != "cpu" for tensor in made)


def test_saving_a_clone_of_a_blocks_tensor_writes_its_own_bytes() -> None:
    file = {f"t{index}": stored("U8", (10_000,), index) for index in range(10)}
    made, _ = sharing(file)
    sizes = {}
    for label, tensor in (("shared", made["t5"]), ("own", made["t5"].clone())):
        written = io.BytesIO()
        torch.save(tensor, written)
        sizes[label] = written.tell()
    assert sizes["own"] < 20_000 < 100_000 < sizes["shared"]
    assert safetensors.torch.load(safetensors.torch.save(made))["t7"].tolist() == list(file["t7"].data)


# One tensor in memory of its own, as on a device.


def alone(dtype: str, shape: tuple[int, ...]) -> tuple[Stored, torch.Tensor]:
    """What was stored, and the tensor made of it where it lies behind other bytes."""
    tensor = stored(dtype, shape)
    memory = torch.frombuffer(bytearray(b"before--" + tensor.data), dtype=torch.uint8)
    return tensor, tensor_of(TensorInfo("t", dtype, shape, 0, len(tensor.data), 0), memory[8:])


@pytest.mark.parametrize("dtype", ["BF16", "F64", "U8", "BOOL", "F8_E4M3", "C64"])
def test_a_tensor_in_memory_of_its_own_has_the_stored_bytes(dtype: str) -> None:
    tensor, made = alone(dtype, (3, 5))
    assert tuple(made.shape) == (3, 5)
    assert made.is_contiguous()
    assert raw(made) == tensor.data


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_it_may_be_changed_in_place_by_what_needs_a_gradient(dtype: str) -> None:
    _, made = alone(dtype, (4,))
    made.mul_(torch.ones(1, dtype=made.dtype, requires_grad=True))
    assert made.requires_grad


def test_it_may_be_detached_in_place() -> None:
    _, made = alone("F32", (4,))
    made.detach_()


def test_it_can_be_trained_though_it_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        _, made = alone("F32", (4,))
    made.requires_grad_()
