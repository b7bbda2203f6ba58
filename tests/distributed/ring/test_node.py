"""Memory that the ranks of a node share, or each has for itself."""

from typing import cast

import pytest

from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.node import share_memory
from runai_model_streamer.errors import OutOfMemoryError


class Alone:
    """A rank whose others share no memory with it."""

    ranks = (0, 1)
    index = 0

    def gather(self, data: bytes) -> list[bytes]:
        return [data, data]


def test_a_rank_without_memory_for_its_own_slots_either_is_told_so() -> None:
    with pytest.raises(OutOfMemoryError, match="no memory for the 1125899906842624 bytes of slots that a rank reads"):
        share_memory(cast(Peers, Alone()), [0, 1], 1 << 10, 1 << 40, required=None)
