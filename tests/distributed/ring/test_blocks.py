"""Cutting what ranks want into blocks, and dealing them out: complete, even, and the same everywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.distributed.ring.blocks import (
    MIN_BLOCK,
    Beginning,
    Block,
    bits,
    cut_blocks,
    deal_out,
    is_shared,
    pack_ranges,
    parties,
    wanted_ranges,
    without_cached,
)
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, plan_groups, steps_of
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import infos

MIB = 1 << 20
FILE, OBJECT = SourceKind.FILE, SourceKind.OBJECT


def planned(spans: list[tuple[int, int]], size: int = 1 << 40, kind: SourceKind = FILE) -> PlannedFile:
    tensors = [TensorInfo(f"t{i}", "U8", (end - start,), start, end, 0) for i, (start, end) in enumerate(spans)]
    return PlannedFile(size, kind, PAGE if kind is FILE else 1, 8 * MIB, tensors)


def cut(ranks: list[list[PlannedFile]], most: int = 8 * MIB, chunk: int | None = None) -> list[Block]:
    kinds = [file.kind for file in ranks[0]]
    return cut_blocks([pack_ranges(files) for files in ranks], kinds, dict.fromkeys(kinds, chunk), most)


spans = st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 700_000)), max_size=12).map(
    lambda pairs: [
        (start, start + size)
        for start, size in zip(
            [sum(gap + size for gap, size in pairs[:index]) + gap for index, (gap, _) in enumerate(pairs)],
            [size for _, size in pairs],
            strict=True,
        )
    ]
)


@given(st.lists(st.lists(spans, min_size=2, max_size=2), min_size=1, max_size=5), st.sampled_from([FILE, OBJECT]))
def test_each_read_of_a_rank_lies_in_blocks_that_do_not_overlap(
    wanted: list[list[list[tuple[int, int]]]], kind: SourceKind
) -> None:
    size = 30_000_001
    ranks = [[planned(each, size, kind) for each in files] for files in wanted]
    blocks = cut(ranks)
    for before, after in itertools.pairwise(blocks):
        assert before.file < after.file or before.end <= after.offset
    assert all(0 < block.length <= 8 * MIB and block.end <= size for block in blocks)
    for index, files in enumerate(ranks):
        for group in plan_groups(files, 4 * MIB):
            for step in steps_of(group, files):
                covered = 0
                for block in blocks:
                    if block.file == step.file:
                        overlap = min(block.end, step.offset + step.length) - max(block.offset, step.offset)
                        covered += max(overlap, 0)
                        # What a rank does not take it reads by itself: a page where parts meet.
                        assert overlap <= PAGE or block.takers >> index & 1
                assert covered == step.length


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("sizes", [[500 * MIB], [MIB] * 300, [1000 * MIB, 1, 2, 3]])
def test_parts_of_ranks_that_want_the_same_are_even(ranks: int, sizes: list[int]) -> None:
    tensors = infos(sizes)
    blocks = cut([[PlannedFile(tensors[-1].end, FILE, PAGE, 8 * MIB, tensors)]] * ranks)
    parts = [0] * ranks
    for block, fillers in zip(blocks, deal_out(blocks, [0] * ranks, {}), strict=True):
        parts[fillers[0]] += block.length
    assert max(parts) - min(parts) <= max(block.length for block in blocks) <= 4 * MIB
    assert sum(sizes) <= sum(parts) <= sum(sizes) + 2 * PAGE


def test_blocks_of_a_small_load_are_not_cut_to_nothing() -> None:
    assert len(cut([[planned([(0, 1000)])]] * 4)) == 1
    blocks = cut([[planned([(0, 4 * MIN_BLOCK[FILE])])]] * 8)
    assert [block.length for block in blocks] == [MIN_BLOCK[FILE]] * 4


def test_a_chunk_that_is_set_bounds_blocks() -> None:
    blocks = cut([[planned([(0, 400 * MIB)])]] * 2, chunk=2 * MIB)
    assert max(block.length for block in blocks) == 2 * MIB


def test_parts_that_meet_within_a_page_are_not_shared_for_its_sake() -> None:
    ranks = [[planned([(0, 10 * MIB + 100)])], [planned([(10 * MIB + 100, 20 * MIB)])]]
    assert {block.takers for block in cut(ranks)} == {1, 2}
    assert parties(cut(ranks), 2) == [1, 2]


def test_pieces_too_small_for_a_read_of_their_own_are_read_together() -> None:
    # Columns: each of two ranks wants every other 80 kB.
    pieces = [(start, start + 80_000) for start in range(0, 16_000_000, 80_000)]
    blocks = cut([[planned(pieces[::2])], [planned(pieces[1::2])]])
    assert all(is_shared(block) for block in blocks)
    assert min(block.length for block in blocks) >= MIN_BLOCK[FILE] // 2
    assert blocks[0].offset == 0
    assert all(before.end == after.offset for before, after in itertools.pairwise(blocks))


def test_bytes_between_wanted_ones_that_are_read_anyway_belong_to_a_range() -> None:
    gap = 60_000
    near = planned([(5000, 6000), (6000 + gap, 90_000), (90_000, 90_000)])
    assert [tuple(span) for span in wanted_ranges(near)] == [(PAGE, 90_112)]
    far = planned([(5000, 6000), (6000 + 70_000, 90_000)])
    assert len(list(wanted_ranges(far))) == 2


def test_what_a_node_has_in_its_page_cache_its_ranks_do_not_share() -> None:
    blocks = [Block(0, 0, MIB, 0b1111), Block(0, MIB, MIB, 0b1111)]
    left = without_cached(blocks, [[0], []], [0, 0, 1, 1])
    assert [block.takers for block in left] == [0b1100, 0b1111]


def test_one_rank_reads_a_block_and_one_of_each_other_domain_receives_it() -> None:
    blocks = [Block(0, index * MIB, MIB, 0b111111) for index in range(60)]
    fillers = deal_out(blocks, [0, 0, 0, 3, 3, 5], {})
    for each in fillers:
        assert sorted({(0, 0, 0, 3, 3, 5)[rank] for rank in each}) == [0, 3, 5]
        assert len(each) == 3
    assert [sum(each[0] == rank for each in fillers) for rank in range(6)] == [10] * 6


def test_a_block_is_filled_by_ranks_that_take_it() -> None:
    blocks = [Block(0, 0, MIB, 0b0110), Block(0, MIB, MIB, 0b1000), Block(0, 2 * MIB, MIB, 0)]
    first, alone, none = deal_out(blocks, [0, 0, 0, 0], {})
    assert first[0] in (1, 2)
    assert (alone, none) == ((), ())


def test_the_beginning_of_an_object_is_read_by_the_rank_that_has_it() -> None:
    blocks = cut([[planned([(0, 30_000_000)], kind=OBJECT)]] * 4)
    fillers = deal_out(blocks, [0] * 4, {0: Beginning(256 << 10, 3)})
    assert fillers[0] == (3,)


def test_a_party_is_all_ranks_that_wait_for_each_other_perhaps_by_way_of_others() -> None:
    blocks = [Block(0, 0, MIB, 0b00011), Block(0, MIB, MIB, 0b00110), Block(0, 2 * MIB, MIB, 0b10000)]
    assert [bits(each) for each in parties(blocks, 5)] == [(0, 1, 2), (0, 1, 2), (0, 1, 2), (3,), (4,)]


def test_more_ranks_than_bits_of_a_machine_word() -> None:
    blocks = cut([[planned([(0, 30 * MIB)])]] * 70)
    assert {block.takers for block in blocks} == {(1 << 70) - 1}
