"""`TensorInfo`: what code written for the original streamer reads of it."""

import pickle

import pytest
import torch

from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, TORCH_NAMES, Shape, TensorInfo
from runai_model_streamer.errors import UnsupportedDtypeError

INFO = TensorInfo("w", "BF16", Shape((2, 3)), 100, 112, 88)


def test_it_tells_bytes_elements_and_dtype_as_the_original() -> None:
    assert (INFO.get_bytesize(), INFO.get_item_count(), INFO.get_element_size()) == (12, 6, 2)
    assert INFO.get_torch_dtype() is torch.bfloat16
    assert (INFO.offsets.start, INFO.offsets.end, INFO.offsets.get_diff()) == (12, 24, 12)


def test_a_scalar_has_one_element() -> None:
    assert INFO._replace(shape=Shape()).get_item_count() == 1


@pytest.mark.parametrize("dtype", [dtype for dtype in TORCH_NAMES if hasattr(torch, TORCH_NAMES[dtype])])
def test_an_element_has_the_bits_that_the_format_says(dtype: str) -> None:
    per_element = 2 if dtype == "F4" else 1
    assert INFO._replace(dtype=dtype).get_element_size() * 8 == DTYPE_BITS[dtype] * per_element


def test_a_dtype_that_torch_has_not_is_an_error_that_names_the_tensor() -> None:
    with pytest.raises(UnsupportedDtypeError, match="tensor 'w' has dtype F6_E2M3") as caught:
        INFO._replace(dtype="F6_E2M3").get_torch_dtype()
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("other", [[2, 3], (2, 3), torch.Size([2, 3])])
def test_a_shape_equals_a_list_and_a_tuple(other: object) -> None:
    shape = Shape((2, 3))
    assert shape == other
    assert other == shape
    assert (shape != other, other != shape) == (False, False)


@pytest.mark.parametrize("other", [[2], [3, 2], (3, 2), "23", None, {2: 3}])
def test_a_shape_differs_from_another(other: object) -> None:
    shape = Shape((2, 3))
    assert shape != other
    assert (shape == other) is False


def test_a_shape_is_a_tuple_to_all_else() -> None:
    shape = Shape((2, 3))
    assert (hash(shape), repr(shape), len({shape, (2, 3)})) == (hash((2, 3)), "(2, 3)", 1)
    assert torch.zeros(6).view(shape).shape == shape
    assert pickle.loads(pickle.dumps(INFO)) == INFO
