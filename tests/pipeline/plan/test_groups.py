from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import (
    GROUP_BYTES,
    LARGE_GROUP_BYTES,
    MAX_GAP,
    REST_BYTES,
    SMALL_GROUPS,
    Group,
    PlannedFile,
    Step,
    largest_tensor,
    plan_groups,
    steps_of,
)
from runai_model_streamer.ranges import PAGE, round_up
from tests.checkpoints import infos

MIB = 1 << 20


def file_of(
    sizes: Iterable[int],
    *,
    data_start: int = 100,
    alignment: int = 1,
    chunk: int = 2 * MIB,
    kind: SourceKind = SourceKind.FILE,
    wanted: Iterable[int] | None = None,
) -> PlannedFile:
    """A file of tensors of these sizes; `wanted` are the indices of those to read."""
    tensors = infos(sizes, data_start)
    size = tensors[-1].end if tensors else data_start
    chosen = tensors if wanted is None else [tensors[index] for index in wanted]
    return PlannedFile(size, kind, alignment, chunk, chosen)


def names_of(groups: Iterable[Group]) -> list[list[str]]:
    return [[tensor.name for part in group.parts for tensor in part.tensors] for group in groups]


def reads_of(groups: Iterable[Group], files: Sequence[PlannedFile]) -> list[tuple[int, int, int]]:
    return [(step.file, step.offset, step.length) for group in groups for step in steps_of(group, files)]


# Tables: what a plan looks like.


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([0, 0], [[0, 1]], id="empty tensors only"),
        pytest.param([10, 20, 30], [[0, 1, 2]], id="small ones together"),
        pytest.param([500_000] * 4, [[0, 1], [2, 3]], id="as many as fit"),
        pytest.param([3_000_000], [[0]], id="a larger one alone"),
        pytest.param([3_000_000, 3_000_000], [[0], [1]], id="each larger one alone"),
        pytest.param([10, 3_000_000], [[0, 1]], id="a small one in front of a larger one shares its group"),
        pytest.param([500_000, 3_000_000], [[0], [1]], id="a middling one in front of a larger one does not"),
        pytest.param([3_000_000, 10], [[0], [1]], id="a small one behind a larger one does not"),
        pytest.param([0, 3_000_000, 0], [[0, 1], [2]], id="empty ones wherever they come"),
        pytest.param([900_000, 0, 0, 900_000], [[0, 1, 2], [3]], id="empty ones stay with what they follow"),
    ],
)
def test_tensors_are_cut_into_groups(sizes: list[int], groups: list[list[int]]) -> None:
    planned = plan_groups([file_of(sizes)], limit=4 * MIB)  # groups of 1 MiB
    assert names_of(planned) == [[f"t{index}" for index in group] for group in groups]


def test_small_files_share_a_group() -> None:
    files = [file_of([10, 20]), file_of([]), file_of([30])]
    (group,) = plan_groups(files)
    assert [part.file for part in group.parts] == [0, 2]


def test_a_group_is_a_quarter_of_the_limit_at_most() -> None:
    groups = list(plan_groups([file_of([100_000] * 40)], limit=MIB))
    assert len(groups) == 20
    assert max(group.footprint for group in groups) <= MIB // 4


def test_without_a_limit_groups_have_the_target_size() -> None:
    groups = list(plan_groups([file_of([MIB] * 40)]))
    assert max(group.footprint for group in groups) <= GROUP_BYTES
    assert len(groups) == 3


def test_small_tensors_do_not_share_a_group_that_the_limit_has_no_room_for() -> None:
    groups = plan_groups([file_of([10, 5_000_000])], limit=5_000_000)
    assert names_of(groups) == [["t0"], ["t1"]]


@pytest.mark.parametrize("wanted", [[0, 2], [2, 4], [0, 2, 4]])
def test_nothing_is_read_for_an_empty_tensor_far_from_its_neighbours(wanted: list[int]) -> None:
    files = [file_of([0, 50_000, 200_000, 50_000, 0], wanted=wanted)]
    groups = list(plan_groups(files, limit=200_000))
    assert reads_of(groups, files) == [(0, 50_100, 200_000)]


def test_nothing_is_read_between_empty_tensors() -> None:
    files = [file_of([0, 10, 0], wanted=[0, 2])]
    groups = list(plan_groups(files, limit=0))
    assert reads_of(groups, files) == []
    assert names_of(groups) == [["t0", "t2"]]


@pytest.mark.parametrize("kind", SourceKind)
def test_a_small_gap_is_read(kind: SourceKind) -> None:
    files = [file_of([10, MAX_GAP[kind], 10], kind=kind, wanted=[0, 2])]
    assert reads_of(plan_groups(files), files) == [(0, 100, MAX_GAP[kind] + 20)]


@pytest.mark.parametrize("kind", SourceKind)
def test_a_large_gap_is_skipped(kind: SourceKind) -> None:
    files = [file_of([10, MAX_GAP[kind] + 1, 10], kind=kind, wanted=[0, 2])]
    groups = list(plan_groups(files))
    assert len(groups) == 1
    assert reads_of(groups, files) == [(0, 100, 10), (0, 100 + 11 + MAX_GAP[kind], 10)]


def test_an_aligned_read_begins_and_ends_on_pages_or_at_the_end_of_the_file() -> None:
    files = [file_of([100, 5_000, 50_000], data_start=4_000, alignment=PAGE, wanted=[0, 1])]
    assert reads_of(plan_groups(files), files) == [(0, 0, 12_288)]
    files = [file_of([100, 5_000], data_start=4_000, alignment=PAGE)]
    assert reads_of(plan_groups(files), files) == [(0, 0, 9_100)]


def test_a_tensor_larger_than_a_chunk_is_read_in_chunks() -> None:
    files = [file_of([5 * PAGE], data_start=0, alignment=PAGE, chunk=2 * PAGE)]
    groups = list(plan_groups(files))
    assert reads_of(groups, files) == [(0, 0, 2 * PAGE), (0, 2 * PAGE, 2 * PAGE), (0, 4 * PAGE, PAGE)]
    assert [group.steps for group in groups] == [3]


def test_reads_meet_at_multiples_of_the_chunk_in_memory_wherever_the_file_is_cut() -> None:
    files = [file_of([5 * PAGE], data_start=3 * PAGE + 100, chunk=2 * PAGE)]
    (group,) = plan_groups(files)
    assert [(step.position, step.length) for step in steps_of(group, files)] == [
        (100, 2 * PAGE - 100),
        (2 * PAGE, 2 * PAGE),
        (4 * PAGE, PAGE + 100),
    ]


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([[]], None),
        ([[0]], (0, "t0", 0)),
        ([[1, 3], [2, 3]], (0, "t1", 3)),
        ([[], [1, 2], [5]], (2, "t0", 5)),
    ],
)
def test_the_largest_tensor_is_the_first_of_those(sizes: list[list[int]], found: tuple[int, str, int] | None) -> None:
    largest = largest_tensor([file_of(each) for each in sizes])
    assert (largest and (largest[0], largest[1].name, largest[1].nbytes)) == found


# Properties of every plan.


class Case(NamedTuple):
    files: list[PlannedFile]
    limit: int | None

    @property
    def groups(self) -> list[Group]:
        return list(plan_groups(self.files, self.limit))

    @property
    def room(self) -> int:
        """Bytes of memory that a group of several tensors may take."""
        return GROUP_BYTES if self.limit is None else min(GROUP_BYTES, self.limit // 4)


_SIZES = st.one_of(
    st.just(0),
    st.sampled_from([1, 100, PAGE - 1, PAGE, PAGE + 1, 40_000, 64 << 10]),
    st.integers(1, 200_000),
)


@st.composite
def _files(draw: st.DrawFn, alignments: Sequence[int]) -> PlannedFile:
    tensors = draw(st.lists(st.tuples(_SIZES, st.booleans()), max_size=10))
    alignment = draw(st.sampled_from(alignments))
    all_wanted = draw(st.booleans())
    return file_of(
        [size for size, _ in tensors],
        data_start=draw(st.integers(10, 3 * PAGE)),
        alignment=alignment,
        chunk=alignment * draw(st.integers(PAGE // alignment, 40 * PAGE // alignment)),
        kind=draw(st.sampled_from(SourceKind)),
        wanted=[index for index, (_, wanted) in enumerate(tensors) if wanted or all_wanted],
    )._replace(rest=draw(st.sampled_from([0, PAGE, REST_BYTES])), large=draw(st.sampled_from([0, 64 << 10, 4 * MIB])))


@st.composite
def cases(draw: st.DrawFn, alignments: Sequence[int] = (1, PAGE)) -> Case:
    files = draw(st.lists(_files(alignments), max_size=4))
    largest = largest_tensor(files)
    minimum = largest[1].nbytes if largest else 0
    return Case(files, draw(st.one_of(st.just(minimum), st.integers(minimum, 8 * minimum), st.none())))


@given(cases())
def test_tensors_keep_their_order(case: Case) -> None:
    planned = [(part.file, tensor) for group in case.groups for part in group.parts for tensor in part.tensors]
    assert planned == [(index, tensor) for index, file in enumerate(case.files) for tensor in file.tensors]


@given(cases())
def test_groups_are_numbered_and_never_without_tensors(case: Case) -> None:
    groups = case.groups
    assert [group.index for group in groups] == list(range(len(groups)))
    assert all(part.tensors for group in groups for part in group.parts)
    assert all(group.parts for group in groups)


@given(cases())
def test_every_tensor_lies_inside_its_part(case: Case) -> None:
    for group in case.groups:
        for part in group.parts:
            for tensor in part.tensors:
                if tensor.nbytes:
                    assert part.offset <= tensor.start <= tensor.end <= part.offset + part.length


@given(cases(), st.sampled_from([0, 2 * MIB, 3 * MIB + PAGE, 64 * MIB]), st.sampled_from([None, 2 * MIB, 4 * MIB]))
def test_the_reads_of_a_part_cover_it_once_each_byte_in_its_place(case: Case, large: int, small: int | None) -> None:
    for group in case.groups:
        steps = list(steps_of(group, case.files, large, small))
        for part in group.parts:
            position = part.position
            offset = part.offset
            while offset < part.offset + part.length:
                step = steps.pop(0)
                assert step[:2] == (part.file, offset)
                assert step.position == position
                assert step.length > 0
                offset += step.length
                position += step.length
            assert offset == part.offset + part.length
        assert steps == []


@given(cases(), st.sampled_from([2 * MIB, 4 * MIB]))
def test_near_the_end_reads_are_no_larger_than_told(case: Case, small: int) -> None:
    for group in case.groups:
        for step in steps_of(group, case.files, 64 * MIB, small):
            assert step.length <= small + case.files[step.file].rest


@given(cases(alignments=[1]))
def test_without_alignment_no_byte_is_read_twice(case: Case) -> None:
    ends = [0] * len(case.files)
    for group in case.groups:
        for step in steps_of(group, case.files):
            assert step.offset >= ends[step.file]
            ends[step.file] = step.offset + step.length


@given(cases())
def test_no_read_goes_past_the_end_of_the_file(case: Case) -> None:
    for group in case.groups:
        for step in steps_of(group, case.files):
            assert step.offset + step.length <= case.files[step.file].size


@given(cases())
def test_a_group_knows_how_many_reads_fill_it(case: Case) -> None:
    for group in case.groups:
        assert group.steps == len(list(steps_of(group, case.files)))


@given(cases())
def test_no_read_is_larger_than_a_chunk_and_a_rest(case: Case) -> None:
    for group in case.groups:
        for step in steps_of(group, case.files):
            assert step.length <= case.files[step.file].chunk + case.files[step.file].rest


def _is_aligned(step: Step, files: Sequence[PlannedFile]) -> bool:
    end = step.offset + step.length
    return not (step.offset % PAGE or step.position % PAGE or (end % PAGE and end != files[step.file].size))


@given(cases(alignments=[PAGE]))
def test_reads_of_an_aligned_file_start_and_land_on_pages(case: Case) -> None:
    for group in case.groups:
        assert [step for step in steps_of(group, case.files) if not _is_aligned(step, case.files)] == []


@given(cases())
def test_parts_of_a_group_never_overlap_in_memory(case: Case) -> None:
    for group in case.groups:
        end = 0
        for part in group.parts:
            if part.length:
                assert part.position >= end
                end = part.position + part.length
        assert end <= group.footprint
        assert group.footprint % PAGE == 0


@given(cases())
def test_memory_suits_a_tensor_as_its_place_in_the_file_does(case: Case) -> None:
    for group in case.groups:
        for part in group.parts:
            # An object's is not read past a page cache: only dtypes matter, of which none is wider than 8 bytes.
            kept = PAGE if case.files[part.file].kind is SourceKind.FILE else 8
            assert part.position % kept == part.offset % kept


def test_objects_of_whole_chunks_take_no_request_more() -> None:
    files = [file_of([2 * MIB] * 8, data_start=8 * 19, kind=SourceKind.OBJECT)]
    groups = list(plan_groups(files, limit=4 * MIB))  # one for each tensor
    assert [group.steps for group in groups] == [1] * 8
    assert reads_of(groups, files) == [(0, tensor.start, 2 * MIB) for tensor in files[0].tensors]


@pytest.mark.parametrize(
    ("size", "large", "lengths"),
    [
        (86, 43, [32, 32, 22]),  # at most as much as a file allows
        (20, 10, [10, 10]),
        (21, 12, [12, 9]),
        (32, 2, [4] * 8),  # no less than a chunk
        (5, 6, [5]),
        (9, 0, [4, 4, 1]),
    ],
)
def test_reads_are_as_large_as_pays(size: int, large: int, lengths: list[int]) -> None:
    file = file_of([size * MIB], data_start=PAGE, alignment=PAGE, chunk=4 * MIB)._replace(large=32 * MIB)
    (group,) = plan_groups([file])
    assert [step.length for step in steps_of(group, [file], large * MIB)] == [each * MIB for each in lengths]


def test_a_file_that_allows_no_more_is_read_by_chunks() -> None:
    file = file_of([9 * MIB], data_start=PAGE, alignment=PAGE, chunk=4 * MIB)
    (group,) = plan_groups([file])
    assert [step.length for step in steps_of(group, [file], 9 * MIB)] == [4 * MIB, 4 * MIB, MIB]


def test_a_short_rest_goes_with_the_read_before_it() -> None:
    file = file_of([8 * MIB], data_start=2 * PAGE - 8, alignment=PAGE)
    (group,) = plan_groups([file])
    assert [step.length for step in steps_of(group, [file])] == [2 * MIB] * 4 + [PAGE - 8]
    file = file._replace(rest=REST_BYTES)
    (group,) = plan_groups([file])
    assert [step.length for step in steps_of(group, [file])] == [2 * MIB] * 3 + [2 * MIB + PAGE - 8]


@pytest.mark.parametrize(("rest", "reads"), [(REST_BYTES, 1), (REST_BYTES + 1, 2)])
def test_a_longer_rest_does_not(rest: int, reads: int) -> None:
    files = [file_of([2 * MIB + rest], data_start=PAGE)._replace(rest=REST_BYTES)]
    (group,) = plan_groups(files)
    assert group.steps == reads


@given(cases())
def test_payload_counts_each_part_from_its_first_to_its_last_tensor(case: Case) -> None:
    for group in case.groups:
        payload = 0
        for part in group.parts:
            if held := [tensor for tensor in part.tensors if tensor.nbytes]:
                payload += held[-1].end - held[0].start
        assert group.payload == payload


@given(cases())
def test_a_group_counts_for_its_memory_but_for_what_alignment_adds_to_one_part(case: Case) -> None:
    for group in case.groups:
        assert group.payload <= group.charge
        assert group.footprint - 3 * PAGE <= group.charge
        if len(group.parts) == 1:
            assert group.charge == group.payload


def test_many_small_parts_count_for_the_memory_that_they_take() -> None:
    sizes = [64, 2 * MAX_GAP[SourceKind.FILE]] * 1000
    groups = list(plan_groups([file_of(sizes, wanted=range(0, 2000, 2))], limit=MIB))
    assert sum(group.payload for group in groups) == 64_000
    assert sum(group.charge for group in groups) > 900 * PAGE


@given(cases())
def test_no_group_is_larger_than_the_limit(case: Case) -> None:
    if case.limit is not None:
        assert [group for group in case.groups if group.charge > case.limit] == []


@given(cases())
def test_only_a_large_tensor_makes_a_group_larger_than_its_target(case: Case) -> None:
    for group in case.groups:
        if group.footprint > round_up(case.room, PAGE):
            tensors = [tensor for part in group.parts for tensor in part.tensors if tensor.nbytes]
            # With what alignment may add; the small ones that share its group take little.
            assert tensors[-1].nbytes > case.room - 3 * PAGE
            assert len(tensors) == 1 or tensors[0].nbytes <= case.room // 8


@given(cases())
def test_no_large_gap_is_ever_read(case: Case) -> None:
    for group in case.groups:
        for part in group.parts:
            held = [tensor for tensor in part.tensors if tensor.nbytes]
            gaps = [after.start - before.end for before, after in pairwise(held)]
            assert max(gaps, default=0) <= MAX_GAP[case.files[part.file].kind]


# Larger groups.


def test_after_the_first_small_groups_they_are_as_large_as_the_file_says() -> None:
    file = file_of([MIB] * 600)
    groups = list(plan_groups([file._replace(group=LARGE_GROUP_BYTES)]))
    assert groups[:SMALL_GROUPS] == list(plan_groups([file]))[:SMALL_GROUPS]
    rest = groups[SMALL_GROUPS:-1]
    assert all(GROUP_BYTES < group.footprint <= LARGE_GROUP_BYTES for group in rest)
    assert {group.target for group in rest} == {LARGE_GROUP_BYTES}
    assert [name for names in names_of(groups) for name in names] == [tensor.name for tensor in file.tensors]


def test_each_file_says_for_itself_how_large_its_groups_are() -> None:
    file = file_of([MIB] * 300)
    groups = list(plan_groups([file._replace(group=LARGE_GROUP_BYTES), file]))
    small = [group for group in groups if {part.file for part in group.parts} == {1}]
    assert small
    assert max(group.footprint for group in small) <= GROUP_BYTES
