"""Draws docs/pictures/way.svg: the way of a byte from where it lies to the tensor.

python -m docs.pictures.way            # from the repository's root; tests/test_pictures.py compares the file
"""

from __future__ import annotations

from typing import Final, NamedTuple

from docs.pictures.drawing import FOLDER, arrow, box, picture, text

WIDTH, TOP, HEIGHT, FLOOR = 860, 48, 46, 74
COLUMNS: Final = (24, 236, 448, 660)
BOX: Final = 176


class Way(NamedTuple):
    """One row of the picture. Each stop has a name, and what it is."""

    start: tuple[str, str]
    between: tuple[str, str] | None
    landing: tuple[str, str]
    moves: str
    """What moves the bytes, under the row."""


SLAB: Final = ("slab", "memory of the process")
ON_GPU: Final = ("GPU memory", "torch's allocator")
WAYS: Final = (
    Way(("page cache", "a file read lately"), None, SLAB, "copied once, by all CPUs"),
    Way(("disk", "ext4, xfs, btrfs, f2fs"), None, SLAB, "O_DIRECT: the disk writes into place"),
    Way(("object storage", "s3, gs, az, https, hf"), None, SLAB, "libcurl receives into place"),
    Way(
        ("any of these", "files and objects"),
        ("page-locked slot", "used again and again"),
        ON_GPU,
        "a copy stream empties one slot while reads fill the next",
    ),
    Way(("NVMe", "a local disk"), None, ON_GPU, "GPUDirect: past the host"),
)


def svg() -> str:
    """Return the picture."""
    heads = ("where it lies", "on its way", "where it lands", "what you get")
    parts = [text(x + BOX / 2, 30, head, "middle dim") for x, head in zip(COLUMNS, heads, strict=True)]
    first, second, third, fourth = COLUMNS
    for number, way in enumerate(WAYS):
        y = TOP + number * FLOOR
        middle = y + HEIGHT / 2
        on_gpu = way.landing == ON_GPU
        parts.append(box(first, y, BOX, HEIGHT, *way.start, classes="amber"))
        if way.between is None:
            parts.append(arrow((first + BOX, middle), (third, middle)))
            parts.append(text((first + BOX + third) / 2, middle - 8, way.moves, "small dim middle"))
        else:
            parts.append(box(second, y, BOX, HEIGHT, *way.between))
            parts.append(arrow((first + BOX, middle), (second, middle)))
            parts.append(arrow((second + BOX, middle), (third, middle)))
            parts.append(text((first + BOX + third) / 2, y + HEIGHT + 16, way.moves, "small dim middle"))
        parts.append(box(third, y, BOX, HEIGHT, *way.landing, classes="green" if on_gpu else "blue"))
        parts.append(text((third + BOX + fourth) / 2, middle + 5, "=", "middle bold"))
        parts.append(box(fourth, y, BOX, HEIGHT, "tensor", "on the GPU" if on_gpu else "on the host"))
    return picture(WIDTH, TOP + len(WAYS) * FLOOR, "The way of a byte, from storage to the tensor", parts)


if __name__ == "__main__":
    (FOLDER / "way.svg").write_text(svg(), encoding="utf-8")
