"""Draws docs/pictures/slab.svg: the life of a slab.

python -m docs.pictures.slab            # from the repository's root; tests/test_pictures.py compares the file
"""

from __future__ import annotations

from typing import Final

from docs.pictures.drawing import FOLDER, arrow, block, box, picture, text

WIDTH, BOX, HEIGHT, STEP = 860, 170, 52, 214
STATES: Final = (
    ("leased", "in plan order"),
    ("filling", "reads land in it"),
    ("complete", "all reads have landed"),
    ("yours", "its tensors are yielded"),
)
WORDS: Final = (
    "A slab holds a group: a run of tensors of about 16 MiB, or one larger tensor. A view of a tensor keeps its slab.",
    "A new slab costs a page fault for each page, so loading is fastest if you drop tensors as they arrive.",
)


def svg() -> str:
    """Return the picture."""
    top, left = 66, 24
    middle = top + HEIGHT / 2
    counted = left + 3 * STEP - 24
    parts = [
        block(12, 12, counted - 12, 214, "box"),
        text(28, 36, "counts against the memory limit", "dim"),
        text(counted + 24, 36, "does not, if you keep it", "dim"),
    ]
    for number, (name, what) in enumerate(STATES):
        x = left + number * STEP
        parts.append(box(x, top, BOX, HEIGHT, name, what, "green" if name == "yours" else "blue"))
        if number:
            parts.append(arrow((x - STEP + BOX, middle), (x, middle)))
    yours = left + 3 * STEP + BOX / 2
    idle = left + STEP
    parts += [
        arrow((yours, top + HEIGHT), (yours, 184), (idle + BOX, 184)),
        text(counted - 150, 176, "its last tensor is gone", "small dim"),
        box(idle, 158, BOX, HEIGHT, "idle", "warm, for the next group", "blue"),
        arrow((idle, 184), (left + BOX / 2, 184), (left + BOX / 2, top + HEIGHT)),
        text(left + BOX / 2 + 10, 176, "used again", "small dim"),
        text(24, 250, WORDS[0], "small dim"),
        text(24, 267, WORDS[1], "small dim"),
    ]
    return picture(WIDTH, 280, "The life of a slab", parts)


if __name__ == "__main__":
    (FOLDER / "slab.svg").write_text(svg(), encoding="utf-8")
