"""Draws docs/pictures/timeline.svg: how reading and the caller's work overlap.

    python -m docs.pictures.timeline            # from the repository's root; tests/test_pictures.py compares the file

The times are those of a small model of a load, not measured: four readers take reads in plan order, and the caller
takes a group when all of its reads have landed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

from docs.pictures.drawing import FOLDER, block, line, picture, text

WIDTH, LEFT, RIGHT, LANE = 860, 150, 836, 30
READERS, GROUPS, READS_PER_GROUP = 4, 6, 4
USE: Final = 2.6
"""Seconds, of the model, that the caller works with a group."""


class Span(NamedTuple):
    """What a thread did from `start` to `end`."""

    lane: int
    group: int
    start: float
    end: float


def reads() -> list[Span]:
    """Return the reads, each by the reader that is free first."""
    free = [0.0] * READERS
    spans = []
    for number in range(GROUPS * READS_PER_GROUP):
        lane = free.index(min(free))
        lasts = 2.0 + 0.35 * (number * 7 % 5)  # no two reads last the same
        spans.append(Span(lane, number // READS_PER_GROUP, free[lane], free[lane] + lasts))
        free[lane] += lasts
    return spans


def uses(landed: list[Span]) -> list[Span]:
    """Return the caller's work with each group, in order."""
    now = 0.0
    spans = []
    for group in range(GROUPS):
        start = max(now, *(span.end for span in landed if span.group == group))
        now = start + USE
        spans.append(Span(READERS, group, start, now))
    return spans


def svg() -> str:
    """Return the picture."""
    landed = reads()
    used = uses(landed)
    last_read = max(span.end for span in landed)
    one_by_one = last_read + GROUPS * USE
    scale = (RIGHT - LEFT) / one_by_one
    rows = [f"reader {number + 1}" for number in range(READERS)] + ["your loop"]
    parts = []
    for number, name in enumerate(rows):
        parts.append(text(LEFT - 14, 34 + number * LANE + 15, name, "end"))
    for span in [*landed, *used]:
        colour = ("blue", "green", "amber")[span.group % 3]
        x, width = LEFT + span.start * scale, (span.end - span.start) * scale
        y = 34 + span.lane * LANE
        parts.append(block(x, y, width - 2, LANE - 8, colour))
        parts.append(text(x + width / 2 - 1, y + 15, str(span.group + 1), "small middle"))
    y = 34 + READERS * LANE + 11
    parts += [
        line(LEFT + before.end * scale, y, LEFT + after.start * scale - 2, y, "arrow")
        for before, after in pairwise(used)
        if after.start - before.end > 0.3
    ]
    parts.append(text(LEFT + used[0].start * scale / 2, y + 4, "waits", "small dim middle"))
    base = 34 + len(rows) * LANE + 30
    parts.append(text(LEFT - 14, base + 15, "load, then use", "end"))
    parts.append(block(LEFT, base, last_read * scale - 2, LANE - 8, "box"))
    parts.append(text(LEFT + last_read * scale / 2, base + 15, "read all", "small middle"))
    parts.append(block(LEFT + last_read * scale, base, GROUPS * USE * scale, LANE - 8, "box"))
    parts.append(text(LEFT + (last_read + GROUPS * USE / 2) * scale, base + 15, "use all", "small middle"))
    end = LEFT + used[-1].end * scale
    parts.append(line(end, 24, end, base + LANE - 4, "mark"))
    parts.append(text(end + 6, 34, "done", "small bold"))
    words = "A model, not a measurement. Numbers are groups. A group is yielded when all of its reads have landed."
    parts.append(text(24, base + 50, words, "small dim"))
    return picture(WIDTH, base + 62, "Readers fill groups while your loop uses the ones before", parts)


if __name__ == "__main__":
    (FOLDER / "timeline.svg").write_text(svg(), encoding="utf-8")
