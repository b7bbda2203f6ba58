"""Dealing out the reads of a plan: even, complete, and the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.distributed.shares import MIN_READ, Beginning, deal_out, even_reads
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, plan_groups
from tests.checkpoints import infos

MIB = 1 << 20


def planned(sizes: list[int], kind: SourceKind = SourceKind.FILE, chunk: int = 4 * MIB) -> PlannedFile:
    tensors = infos(sizes)
    return PlannedFile(tensors[-1].end if tensors else 100, kind, 4096, chunk, tensors)


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("sizes", [[500 * MIB], [MIB] * 300, [1000 * MIB, 1, 2, 3]])
def test_parts_are_even(ranks: int, sizes: list[int]) -> None:
    files = even_reads([planned(sizes)], ranks)
    parts = [0] * ranks
    for share in deal_out(tuple(plan_groups(files)), files, ranks, {})[0]:
        parts[share.owner] += share.length
    assert sum(parts) == sum(sizes)
    assert max(parts) - min(parts) <= files[0].chunk


def test_reads_of_a_large_load_stay_large_and_those_of_a_small_one_are_not_cut_to_nothing() -> None:
    assert even_reads([planned([1000 * MIB])], 4)[0].chunk == 4 * MIB
    assert even_reads([planned([1000])], 4)[0].chunk == MIN_READ[SourceKind.FILE]
    assert even_reads([planned([1000], SourceKind.OBJECT)], 4)[0].chunk == MIN_READ[SourceKind.OBJECT]


@given(st.lists(st.lists(st.integers(0, 3 * MIB), max_size=30), max_size=4), st.integers(1, 6))
def test_every_wanted_byte_is_in_one_share_and_no_two_overlap(sizes: list[list[int]], ranks: int) -> None:
    files = even_reads([planned(each, chunk=MIB) for each in sizes], ranks)
    shares = deal_out(tuple(plan_groups(files, 8 * MIB)), files, ranks, {})
    numbers = [share.number for each in shares for share in each]
    assert sorted(numbers) == list(range(len(numbers)))
    for each, wanted in zip(shares, sizes, strict=True):
        position = 100
        for share in each:
            assert share.offset == position
            assert 0 <= share.owner < ranks
            position += share.length
        assert position == 100 + sum(wanted)


def test_the_beginning_of_an_object_is_read_by_the_rank_that_has_it() -> None:
    files = even_reads([planned([300_000] * 100, SourceKind.OBJECT, 8 * MIB)], 4)
    shares = deal_out(tuple(plan_groups(files)), files, 4, {0: Beginning(256 << 10, 3)})[0]
    assert shares[0].owner == 3
    parts = [sum(share.length for share in shares if share.owner == rank) for rank in range(4)]
    assert max(parts) - min(parts) <= files[0].chunk
