"""The first reads of a load from object storage are short, and read the same bytes."""

import pytest

from runai_model_streamer.pipeline.plan.groups import Step, plan_groups, steps_of
from runai_model_streamer.pipeline.plan.short import begun_short
from runai_model_streamer.ranges import PAGE
from tests.pipeline.plan.test_groups import MIB, file_of


@pytest.mark.parametrize(
    ("count", "lengths"),
    [
        (0, [8, 8, 3]),
        (1, [2, 6, 8, 3]),
        (3, [2, 2, 2, 2, 8, 3]),
        (5, [2, 2, 2, 2, 2, 6, 3]),
        (100, [2] * 8 + [2, 1]),
    ],
)
def test_the_first_reads_are_cut_and_the_others_stay(count: int, lengths: list[int]) -> None:
    file = file_of([19 * MIB], data_start=PAGE, chunk=8 * MIB)
    (group,) = plan_groups([file])
    steps = list(steps_of(group, [file]))
    found = begun_short(steps, [file], count)
    assert [step.length for step in found] == [each * MIB for each in lengths]
    offset, position = steps[0].offset, steps[0].position
    for step in found:
        assert (step.offset, step.position) == (offset, position)
        offset, position = offset + step.length, position + step.length


def test_they_meet_where_huge_pages_of_memory_do() -> None:
    file = file_of([8 * MIB], chunk=8 * MIB)
    found = begun_short([Step(0, 5, 8 * MIB, MIB)], [file], 10)
    assert [step.position // MIB for step in found] == [1, 2, 4, 6, 8]
    assert [step.length // MIB for step in found] == [1, 2, 2, 2, 1]
    assert [step.offset for step in found] == [5 + step.position - MIB for step in found]
