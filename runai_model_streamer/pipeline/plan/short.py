"""Cuts the first reads of a load smaller, so that the first ones end soon: they say how fast connections are."""

from collections.abc import Iterable, Sequence

from runai_model_streamer.pipeline.plan.groups import PlannedFile, Step
from runai_model_streamer.ranges import HUGE_PAGE, round_up


def begun_short(steps: Iterable[Step], files: Sequence[PlannedFile], count: int) -> list[Step]:
    """Return the reads with the first ones cut where huge pages of memory meet, until there are `count` of those.

    Args:
        steps: of one group.
        files: the files of the plan.
        count: short reads to make of the first ones.
    """
    cut: list[Step] = []
    for step in steps:
        start, end = step.position, step.position + step.length
        while len(cut) < count and end - start > HUGE_PAGE + files[step.file].rest:
            until = round_up(start + 1, HUGE_PAGE)
            cut.append(Step(step.file, step.offset + start - step.position, until - start, start))
            start = until
        cut.append(Step(step.file, step.offset + start - step.position, end - start, start))
    return cut
