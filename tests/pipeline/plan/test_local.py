"""How an object is read of which a part is on the node's disk."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, Step, plan_groups, steps_of
from runai_model_streamer.pipeline.plan.local import OWN_BYTES, with_local
from runai_model_streamer.ranges import PAGE, ByteRange
from tests.checkpoints import infos

MIB = 1 << 20
CHUNKS = {SourceKind.OBJECT: 8 * MIB, SourceKind.FILE: 4 * MIB}


def planned(sizes: Sequence[int], local: Iterable[tuple[int, int]], data_start: int = 0) -> PlannedFile:
    tensors = infos(sizes, data_start)
    file = PlannedFile(tensors[-1].end, SourceKind.OBJECT, 1, CHUNKS[SourceKind.OBJECT], tensors)
    return with_local(file, [ByteRange(*span) for span in local], CHUNKS.__getitem__)


def reads(file: PlannedFile) -> list[Step]:
    return [step for group in plan_groups([file]) for step in steps_of(group, [file])]


def test_an_object_that_is_not_kept_on_the_disk_is_read_as_it_is() -> None:
    file = PlannedFile(MIB, SourceKind.OBJECT, 1, CHUNKS[SourceKind.OBJECT], infos([MIB], 0))
    assert with_local(file, None, CHUNKS.__getitem__) is file


def test_an_object_of_which_nothing_is_there_yet_lands_where_it_can_be_written_from() -> None:
    file = planned([20 * MIB], [], data_start=PAGE + 7)
    assert (file.kind, file.cuts) == (SourceKind.OBJECT, ())
    assert {step.position % PAGE for step in reads(file)} == {7, 0}


@pytest.mark.parametrize("local", [[(0, 8 * MIB)], [(0, 3 * MIB), (4 * MIB, 8 * MIB)]])
def test_if_all_that_is_wanted_is_local_it_is_read_as_a_file(local: list[tuple[int, int]]) -> None:
    tensors = infos([2 * MIB, 0, MIB, MIB, 4 * MIB], 0)
    wanted = [tensor for tensor in tensors if tensor.name != "t3"]
    file = PlannedFile(8 * MIB, SourceKind.OBJECT, 1, CHUNKS[SourceKind.OBJECT], wanted)
    local_file = with_local(file, [ByteRange(*span) for span in local], CHUNKS.__getitem__)
    assert (local_file.kind, local_file.chunk, local_file.cuts) == (SourceKind.FILE, 4 * MIB, ())


def test_reads_end_where_what_is_local_begins_and_ends() -> None:
    file = planned([16 * MIB - 2 * PAGE], [(3 * MIB, 5 * MIB), (12 * MIB, 14 * MIB)])
    assert file.kind is SourceKind.OBJECT
    ends = [0, 3 * MIB, 5 * MIB, 12 * MIB, 14 * MIB, 16 * MIB - 2 * PAGE]
    assert [(step.offset, step.offset + step.length) for step in reads(file)] == list(pairwise(ends))


def test_a_short_local_range_has_no_read_of_its_own() -> None:
    file = planned([8 * MIB - 2 * PAGE], [(0, OWN_BYTES - 1)])
    assert [step.length for step in reads(file)] == [8 * MIB - 2 * PAGE]


@given(
    st.lists(st.sampled_from([0, 5, PAGE, 3 * MIB + 7, 20 * MIB]), min_size=1, max_size=6),
    st.lists(st.integers(0, 60 * MIB), max_size=8),
    st.integers(0, 3 * PAGE),
)
def test_every_byte_is_read_once_and_long_local_ranges_by_themselves(
    sizes: list[int], ends: list[int], data_start: int
) -> None:
    cuts = sorted(set(ends))
    local = list(zip(cuts[::2], cuts[1::2], strict=False))
    file = planned(sizes, local, data_start)
    groups = list(plan_groups([file]))
    assert [group.steps for group in groups] == [len(list(steps_of(group, [file]))) for group in groups]
    position = data_start
    for step in reads(file):
        assert step.offset == position
        position += step.length
        if file.kind is SourceKind.OBJECT:  # past the page cache, into memory that is aligned alike
            assert (step.position - step.offset) % PAGE == 0
        if file.kind is SourceKind.OBJECT:
            for start, end in local:
                if end - start >= OWN_BYTES and step.offset < end and step.offset + step.length > start:
                    assert start <= step.offset
                    assert step.offset + step.length <= end
    assert position == data_start + sum(sizes)
