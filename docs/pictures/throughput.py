"""Draws docs/pictures/throughput.svg: this package next to other loaders, from the table in benchmarks/RESULTS.md.

python -m docs.pictures.throughput            # from the repository's root; tests/test_pictures.py compares the file
"""

from __future__ import annotations

from typing import Final, NamedTuple

from docs.pictures.drawing import FOLDER, block, line, picture, text

RESULTS: Final = FOLDER.parents[1] / "benchmarks" / "RESULTS.md"
LOADERS: Final = (("this package", "ours"), ("runai-model-streamer", "other"), ("safetensors (mmap)", "third"))
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 760, 272, 740, 56, 15, 20


class Row(NamedTuple):
    """One thing that was loaded."""

    what: str
    rates: tuple[float | None, ...]
    """GB/s of each of `LOADERS`; None where it was not measured."""
    limit: float
    """GB/s that the machine reached without a loader."""


def measured() -> list[Row]:
    """Return the rows of the table."""
    section = RESULTS.read_text(encoding="utf-8").split("## Next to other loaders", 1)[1]
    head, _, *lines = [each for each in section.partition("\n\nsafetensors")[0].splitlines() if each.startswith("|")]
    names = _cells(head)
    if names[1:5] != [*(name for name, _ in LOADERS), "the machine's own limit"]:
        raise SystemExit(f"{RESULTS}: the table has other columns: {names}")
    found = []
    for cells in map(_cells, lines):
        *rates, limit = (float(cell) if cell else None for cell in cells[1:5])
        if limit is None:
            raise SystemExit(f"{RESULTS}: {cells[0]}: no limit")
        found.append(Row(cells[0], tuple(rates), limit))
    return found


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def svg() -> str:
    """Return the picture."""
    rows = measured()
    scale = (RIGHT - LEFT) / max(rate for row in rows for rate in (*row.rates, row.limit) if rate is not None)
    parts = [*_legend()]
    y = float(TOP)
    for row in rows:
        bars = [(rate, classes) for rate, (_, classes) in zip(row.rates, LOADERS, strict=True) if rate is not None]
        parts.append(text(LEFT - 12, y + len(bars) * BAR / 2 + 4, row.what, "end"))
        for number, (rate, classes) in enumerate(bars):
            top = y + number * BAR
            parts.append(block(LEFT, top, rate * scale, BAR - 2, f"bar {classes}"))
            parts.append(text(LEFT + 5, top + 10.5, f"{rate:.2f}", "small bold on"))
        mark = LEFT + row.limit * scale
        parts.append(line(mark, y - 3, mark, y + len(bars) * BAR + 1, "mark"))
        y += len(bars) * BAR + GAP
    parts.append(line(LEFT, TOP - 8, LEFT, y - GAP + 8))
    machine = "GB/s, medians. Two cores of an Intel Xeon, 23.5 GiB, no GPU: benchmarks/RESULTS.md"
    parts.append(text(24, y + 8, machine, "small dim"))
    return picture(WIDTH, y + 20, "GB/s of this package and of other loaders", parts)


def _legend() -> list[str]:
    parts = []
    x = 24.0
    for name, classes in LOADERS:
        parts += [block(x, 14, 12, 12, f"bar {classes}"), text(x + 18, 24, name, "small")]
        x += 42 + 6.8 * len(name)
    return [*parts, line(x + 4, 13, x + 4, 27, "mark"), text(x + 12, 24, "the machine's own limit", "small")]


if __name__ == "__main__":
    (FOLDER / "throughput.svg").write_text(svg(), encoding="utf-8")
