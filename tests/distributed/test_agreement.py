"""What ranks compare before they share a load."""

import numpy as np
import pytest

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.distributed.agreement import digest_of
from runai_model_streamer.distributed.shares import Share

TENSOR = TensorInfo("wéight", "BF16", (4, 0, 1 << 63), 100, 100, 60)


class _Unwritten(TensorInfo):
    def __repr__(self) -> str:
        raise AssertionError("a text of each of 50,000 tensors takes long")


def test_ranks_that_plan_the_same_have_the_same_digest_which_makes_no_text_of_each_tensor() -> None:
    assert digest_of([[_Unwritten(*TENSOR)], []]) == digest_of(([_Unwritten(*TENSOR)], ()))
    assert digest_of([[np.int64(100), "a"]]) == digest_of([[100, "a"]])
    assert digest_of([(None, 7), [[Share(0, 5, 1, 0)]]]) == digest_of([(None, 7), [[Share(0, 5, 1, 0)]]])


@pytest.mark.parametrize(
    "other",
    [
        TENSOR._replace(name="weight"),
        TENSOR._replace(dtype="F16"),
        TENSOR._replace(shape=(4, 0)),
        TENSOR._replace(start=99),
        TENSOR._replace(end=101),
    ],
)
def test_any_difference_between_tensors_makes_another_digest(other: TensorInfo) -> None:
    assert digest_of([[TENSOR]]) != digest_of([[other]])


def test_a_digest_tells_in_which_file_a_tensor_is() -> None:
    assert digest_of([[TENSOR], []]) != digest_of([[], [TENSOR]])
