"""Messages that ranks exchange in one piece or two."""

import pytest

from runai_model_streamer.distributed.ranks.messages import FIRST, cut, joined, length_of_rest


@pytest.mark.parametrize("length", [0, 1, FIRST - 9, FIRST - 8, FIRST - 7, 3 * FIRST])
def test_a_message_is_what_was_cut_and_only_a_long_one_has_a_rest(length: int) -> None:
    message = bytes(index % 251 + 1 for index in range(length))
    first, rest = cut(message)
    assert len(first) == FIRST
    assert len(rest) == length_of_rest(first) == max(length - FIRST + 8, 0)
    assert joined(first, rest) == message
