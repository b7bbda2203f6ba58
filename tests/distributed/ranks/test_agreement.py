"""What all ranks have to have alike before they share a load."""

import os
from typing import cast

import orjson
import pytest

from runai_model_streamer.distributed.ranks.agreement import Facts, agree, listed
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.errors import DistributedError


class PlayedPeers:
    """Ranks 4, 5, ... of which the first is this one; the others have said what they have."""

    def __init__(self, *others: Facts) -> None:
        self.ranks = tuple(range(4, 5 + len(others)))
        self._others = [orjson.dumps(facts) for facts in others]

    def gather(self, data: bytes) -> list[bytes]:
        """What all ranks have."""
        return [data, *self._others]


def compare(mine: Facts, *others: Facts) -> None:
    agree(cast(Peers, PlayedPeers(*others)), mine)


def test_ranks_with_the_same_facts_agree_in_whatever_order_they_have_them() -> None:
    compare({"paths": "2 from a on", "limit": "5"}, {"limit": "5", "paths": "2 from a on"})


def test_a_fact_is_compared_between_the_ranks_that_have_it() -> None:
    compare({"version on node 0": "1"}, {"version on node 1": "2"}, {})
    with pytest.raises(DistributedError) as failed:
        compare({}, {"version": "1"}, {}, {"version": "2"})
    assert failed.value.ranks == (7,)
    assert "version: 1 on rank 5, 2 on rank 7" in str(failed.value)


def test_each_rank_that_differs_from_the_first_is_named_with_both_values() -> None:
    with pytest.raises(DistributedError) as failed:
        compare({"limit": "5", "dtype": "None"}, {"limit": "6", "dtype": "None"}, {"limit": "5", "dtype": "F16"})
    assert failed.value.ranks == (5, 6)
    assert "limit: 5 on rank 4, 6 on rank 5; dtype: None on rank 4, F16 on rank 6" in str(failed.value)


def test_every_rank_says_the_same_of_the_same_differences() -> None:
    one, other = {"limit": "5"}, {"limit": "6"}
    told = []
    for rank in range(2):
        with pytest.raises(DistributedError) as failed:
            agree(cast(Peers, Seen(rank, one, other)), (one, other)[rank])
        told.append((str(failed.value), failed.value.ranks))
    assert told[0] == told[1]


class Seen(PlayedPeers):
    """The same two ranks, as each of them sees them."""

    def __init__(self, rank: int, *facts: Facts) -> None:
        super().__init__(facts[1])
        self._rank, self._all = rank, [orjson.dumps(each) for each in facts]

    def gather(self, data: bytes) -> list[bytes]:
        assert data == self._all[self._rank]
        return self._all


def test_only_the_first_differences_are_spelt_out() -> None:
    with pytest.raises(DistributedError) as failed:
        compare({f"fact {index}": "1" for index in range(8)}, {f"fact {index}": "2" for index in range(8)})
    assert str(failed.value).count("on rank 5") == 5
    assert "; and 3 more" in str(failed.value)


def test_names_that_are_no_unicode_are_compared_too() -> None:
    name = os.fsdecode(b"n\xff")
    as_sent = {"paths": "n\\udcff"}
    compare({"paths": name}, as_sent)
    with pytest.raises(DistributedError, match="udcff on rank 4, m on rank 5"):
        compare({"paths": name}, {"paths": "m"})


def test_lists_are_described_in_a_few_words_that_differ_when_they_do() -> None:
    names = [f"model-{index:05}.safetensors" for index in range(1000)]
    assert len(listed(names)) < 100
    assert listed(names) == listed(list(names))
    swapped = [*names[:500], names[501], names[500], *names[502:]]
    assert (
        len({listed(names), listed(names[:-1]), listed(swapped), listed([]), listed(["a", "b"]), listed(["ab"])}) == 6
    )
    assert listed([os.fsdecode(b"\xff")]) != listed([os.fsdecode(b"\xfe")])
