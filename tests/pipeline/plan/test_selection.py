"""Parts of tensors: which bytes they are, how they are read, and what is no part. Tables; nothing is read."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.selection import (
    Rows,
    Select,
    Selected,
    TensorShard,
    TensorSlice,
    select_part,
    select_parts,
)

START, DATA_START = 1100, 100


def tensor(shape: tuple[int, ...], dtype: str = "F32", name: str = "w") -> TensorInfo:
    bits = DTYPE_BITS[dtype]
    for size in shape:
        bits *= size
    return TensorInfo(name, dtype, shape, START, START + bits // 8, DATA_START)


def part(shape: tuple[int, ...], wanted: object, *, dtype: str = "F32", gap: int = 0) -> Selected:
    return select_part("m", tensor(shape, dtype), wanted, gap)


def no_check(path: str, tensors: Iterable[TensorInfo]) -> None:
    """Torch can hold them all."""


def test_rows_are_a_range_of_bytes() -> None:
    found = part((10, 5), TensorSlice(0, 2, 6))
    assert found.info == tensor((10, 5))._replace(shape=(4, 5), start=START + 40, end=START + 120)
    assert found.reads == (found.info,)
    assert found.rows is None
    assert (found.info.offsets.start, found.info.nbytes) == (START - DATA_START + 40, 80)


@pytest.mark.parametrize("wanted", [(0, 2, 6), TensorSlice(-2, 2, 6), (torch.tensor(0), 2, torch.tensor(6))])
def test_a_slice_may_be_a_tuple_of_whole_numbers_and_count_dimensions_from_the_end(wanted: object) -> None:
    assert part((10, 5), wanted) == part((10, 5), TensorSlice(0, 2, 6))


def test_any_dimension_behind_ones_is_a_range_of_bytes() -> None:
    found = part((1, 1, 10), TensorSlice(2, 3, 4))
    assert (found.reads, found.rows) == ((found.info,), None)
    assert (found.info.start, found.info.nbytes) == (START + 12, 4)


@pytest.mark.parametrize("wanted", [True, TensorSlice(1, 0, 5), TensorShard(1, 0, 1)])
def test_all_of_a_tensor_is_the_tensor(wanted: object) -> None:
    assert part((10, 5), wanted) == Selected(tensor((10, 5)), (tensor((10, 5)),))


def test_columns_are_read_with_the_bytes_between_them_where_those_are_few() -> None:
    found = part((10, 5), TensorSlice(1, 1, 3), gap=12)
    assert found.rows == Rows(outer=10, stride=5, inner=2)
    assert found.reads == (tensor(())._replace(shape=(47,), start=START + 4, end=START + 4 + 188),)
    assert (found.info.shape, found.info.start, found.info.nbytes) == ((10, 2), START + 4, 80)


def test_columns_are_read_row_by_row_where_many_bytes_are_between_them() -> None:
    found = part((3, 5), TensorSlice(1, 1, 3), gap=11)
    assert found.rows == Rows(outer=3, stride=5, inner=2)
    assert [(each.shape, each.start - START, each.end - START) for each in found.reads] == [
        ((2,), 4, 12),
        ((2,), 24, 32),
        ((2,), 44, 52),
    ]


def test_packed_numbers_are_elements_of_a_byte() -> None:
    found = part((3, 2, 8), TensorSlice(2, 2, 6), dtype="F4", gap=100)
    assert found.rows == Rows(outer=6, stride=4, inner=2)
    assert (found.reads[0].shape, found.reads[0].nbytes) == ((44,), 22)
    assert part((4, 2), TensorSlice(0, 1, 2), dtype="F4").info.offsets == (
        START - DATA_START + 1,
        START - DATA_START + 2,
    )


@pytest.mark.parametrize("shape", [(4, 6), (0, 6), (4, 0), (0, 0)])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("at", ["start", "end"])
def test_a_part_without_elements_needs_no_bytes(shape: tuple[int, int], dim: int, at: str) -> None:
    place = 0 if at == "start" else shape[dim]
    found = part(shape, TensorSlice(dim, place, place))
    assert found.info.shape[dim] == 0
    assert sum(read.nbytes for read in found.reads) == 0
    assert len(found.reads) == 1
    assert found.rows is None


@given(size=st.integers(0, 50), ranks=st.integers(1, 20))
def test_shards_are_what_torch_cuts(size: int, ranks: int) -> None:
    theirs = [chunk.tolist() for chunk in torch.chunk(torch.arange(size), ranks)]
    theirs += [[]] * (ranks - len(theirs))
    found = [part((size,), TensorShard(0, rank, ranks), dtype="U8").info for rank in range(ranks)]
    assert [each.shape[0] for each in found] == [len(each) for each in theirs]
    assert [list(range(each.start - START, each.end - START)) for each in found] == theirs


@pytest.mark.parametrize(
    "wanted",
    [
        TensorSlice(2, 0, 1),
        TensorSlice(-3, 0, 1),
        TensorSlice(0, -1, 1),
        TensorSlice(0, 2, 1),
        TensorSlice(0, 0, 5),
        (1, 0, 7),
        TensorShard(0, 2, 2),
        TensorShard(0, -1, 2),
        TensorShard(0, 0, 0),
        TensorShard(5, 0, 2),
    ],
    ids=str,
)
def test_what_a_tensor_does_not_have_is_refused_with_its_name_its_shape_and_the_part(wanted: object) -> None:
    with pytest.raises(ArgumentError, match=r"^m: tensor 'w' of shape \[4, 6\]: select gives ") as raised:
        part((4, 6), wanted)
    assert str(wanted) in str(raised.value)


def test_a_scalar_has_no_parts() -> None:
    with pytest.raises(ArgumentError, match="has 0 dimensions"):
        part((), TensorSlice(0, 0, 1))


@pytest.mark.parametrize("wanted", [TensorSlice(1, 1, 3), TensorSlice(1, 0, 3), TensorShard(-1, 0, 2)])
def test_packed_numbers_are_not_taken_apart(wanted: object) -> None:
    with pytest.raises(ArgumentError, match="torch packs 2 numbers of F4 in an element"):
        part((4, 6), wanted, dtype="F4")


@pytest.mark.parametrize(
    "wanted", [7, "all", (0, 1), (0, 1, 2, 3), [0, 0, 1], (0, 0.0, 1), (0, True, 2), (0, None, 1), slice(0, 1)], ids=str
)
def test_what_is_no_part_is_refused(wanted: object) -> None:
    with pytest.raises(ArgumentTypeError, match=r"tensor 'w' of shape \[4, 6\]: select gives"):
        part((4, 6), wanted)


def chosen(select: Any, *files: list[str]) -> list[list[tuple[str, tuple[int, ...]]]]:
    infos = [[tensor((4, 6), name=name) for name in names] for names in files]
    kinds = [SourceKind.FILE] * len(files)
    found = select_parts([f"m{index}" for index in range(len(files))], infos, kinds, select, no_check)
    return [[(each.info.name, each.info.shape) for each in parts] for parts in found]


@pytest.mark.parametrize(
    "select",
    [
        pytest.param({"a": (0, 1, 3), "b": None, "d": False}, id="mapping"),
        pytest.param({"a": (0, 1, 3), "b": None, "c": True, "d": None}.__getitem__, id="function"),
        pytest.param({"a": TensorShard(0, 0, 2), "b": False, "d": None}, id="shard"),
    ],
)
def test_a_function_or_a_mapping_says_what_is_wanted_of_each_tensor(select: Select) -> None:
    assert chosen(select, ["a", "b"], ["c", "d"]) == [[("a", (2, 6))], [("c", (4, 6))]]


def test_a_name_that_is_in_no_file_is_refused() -> None:
    with pytest.raises(ArgumentError, match="not among the tensors to read from the 2 files: 'x', 'y'"):
        chosen({"a": True, "x": None, "y": (0, 0, 1)}, ["a"], ["b"])


@pytest.mark.parametrize("select", [7, "a", ["a"], {"a"}], ids=str)
def test_what_is_neither_function_nor_mapping_is_refused(select: object) -> None:
    with pytest.raises(ArgumentTypeError, match="select is a function or a mapping"):
        chosen(select, ["a"])


def test_only_tensors_of_which_something_is_wanted_have_to_be_torchs() -> None:
    checked: list[str] = []
    check: Callable[[str, Iterable[TensorInfo]], None] = lambda _, tensors: checked.extend(t.name for t in tensors)  # noqa: E731
    infos = [tensor((4, 6), name=name) for name in "abc"]
    select_parts(["m"], [infos], [SourceKind.FILE], {"b": None, "c": (0, 0, 1)}, check)
    assert checked == ["a", "c"]
