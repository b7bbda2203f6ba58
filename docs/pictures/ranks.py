"""Draws docs/pictures/ranks.svg: one download for the eight ranks of a node.

python -m docs.pictures.ranks            # from the repository's root; tests/test_pictures.py compares the file
"""

from __future__ import annotations

from docs.pictures.drawing import FOLDER, arrow, block, box, picture, text

WIDTH, LEFT, RANKS = 860, 24, 8
STEP = (WIDTH - 2 * LEFT) / RANKS


def svg() -> str:
    """Return the picture."""
    inner = WIDTH - 2 * LEFT
    parts = [box(LEFT, 12, inner, 44, "storage", "each byte is read once for the node", "amber")]
    for rank in range(RANKS):
        x = LEFT + rank * STEP
        centre = x + STEP / 2
        parts.append(arrow((centre, 56), (centre, 108)))
        parts.append(text(centre + 6, 86, "1/8", "small dim"))
        parts.append(box(x + 4, 109, STEP - 8, 40, f"rank {rank}", "reads its part"))
        parts.append(arrow((centre, 149), (centre, 191)))
    parts.append(block(LEFT, 192, inner, 76, "blue"))
    slots = 3 * RANKS
    parts += [
        block(LEFT + 8 + slot * (inner - 16) / slots, 204, (inner - 16) / slots - 5, 26, "box") for slot in range(slots)
    ]
    parts.append(
        text(WIDTH / 2, 254, "one ring of slots: memory that all ranks of the node map, at most 512 MiB", "middle")
    )
    for rank in range(RANKS):
        x = LEFT + rank * STEP
        centre = x + STEP / 2
        parts.append(arrow((centre, 268), (centre, 320)))
        parts.append(text(centre + 6, 298, "all", "small dim"))
        parts.append(box(x + 4, 321, STEP - 8, 40, f"rank {rank}", "its tensors", "green"))
    parts.append(
        text(
            WIDTH / 2,
            386,
            "A slot is filled again when every rank has copied it: the slowest rank sets the pace.",
            "middle dim",
        )
    )
    return picture(WIDTH, 400, "One download for the eight ranks of a node", parts)


if __name__ == "__main__":
    (FOLDER / "ranks.svg").write_text(svg(), encoding="utf-8")
