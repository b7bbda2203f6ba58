"""Which part of a tensor is read for an index."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.access.slices import cut_of
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.pipeline.plan.selection import TensorSlice

SHAPE = (4, 5, 6)
WHOLE = torch.arange(math.prod(SHAPE)).reshape(SHAPE)
BOUNDS = st.none() | st.integers(-7, 7)
INDEX = st.integers(-4, 3) | st.builds(slice, BOUNDS, BOUNDS, st.none() | st.integers(1, 4))


def cut(index: object) -> torch.Tensor:
    found = cut_of("t", SHAPE, index)
    part = WHOLE
    if found.part is not None:
        part = WHOLE.narrow(found.part.dim, found.part.start, found.part.stop - found.part.start)
    return part[found.rest]


@given(st.lists(INDEX, max_size=3), st.none() | st.integers(0, 3))
def test_an_index_means_what_it_means_to_torch(index: list[int | slice], ellipsis: int | None) -> None:
    wanted: list[object] = list(index)
    if ellipsis is not None:
        wanted.insert(ellipsis, ...)
    assert torch.equal(cut(tuple(wanted)), WHOLE[tuple(wanted)])  # type: ignore[index]


def test_an_empty_list_is_nothing_of_the_first_dimension() -> None:
    assert torch.equal(cut([]), WHOLE[[]])


@pytest.mark.parametrize(
    ("index", "part"),
    [
        (slice(None), None),
        (..., None),
        (slice(1, 3), TensorSlice(0, 1, 3)),
        (-1, TensorSlice(0, 3, 4)),
        (np.int64(2), TensorSlice(0, 2, 3)),
        ((slice(None), slice(1, None, 2)), TensorSlice(1, 1, 4)),
        ((..., 0), TensorSlice(2, 0, 1)),
        ((1, ..., 0), TensorSlice(0, 1, 2)),
        (slice(3, 3), TensorSlice(0, 0, 0)),
    ],
)
def test_the_first_dimension_that_is_narrowed_is_read_in_part(index: object, part: TensorSlice | None) -> None:
    assert cut_of("t", SHAPE, index).part == part


@pytest.mark.parametrize("index", [True, [0, 1], None, "a", (0, None), (..., 0, ...), 1.0])
def test_other_indices_are_refused_with_what_to_do(index: object) -> None:
    with pytest.raises(ArgumentTypeError, match=r"tensor 't'.*get_tensor\('t'\)"):
        cut_of("t", SHAPE, index)


@pytest.mark.parametrize("index", [4, -5, (0, 5), (0, 0, 0, 0), slice(None, None, -1), slice(0, 2, 0)])
def test_an_index_that_does_not_fit_is_refused(index: object) -> None:
    with pytest.raises(ArgumentError, match="tensor 't'"):
        cut_of("t", SHAPE, index)
