"""Draws docs/pictures/house.svg: the rooms of the package and which imports which, read off the code.

    python -m docs.pictures.house            # from the repository's root; tests/test_architecture.py compares the file

A room stands above all that it imports. Left out are arrows that follow from two others, and the modules on the ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_name("house.svg")


class Room(NamedTuple):
    """A box of the picture."""

    what: str
    """What it is for."""
    column: float
    """Where it stands, from 0 at the left to 6 at the right; its floor comes from the imports."""
    prefixes: tuple[str, ...]
    """Its modules and folders. The longest prefix of a module decides."""


ENGINES = ("distributed_streamer", "file_streamer", "s3_utils", "safetensors_streamer", "testing")

ROOMS: Mapping[str, Room] = {
    "cli": Room("the command", 2.6, ("cli",)),
    "profiling, plots": Room("for notebooks", 1.2, ("plots", "profiling")),
    "original's paths": Room("kept for engines", 4.2, ENGINES),
    "streamers": Room("what users call", 2.6, ("base_streamer", "range_streamer", "streamer")),
    "distributed": Room("one load for all ranks", 2.6, ("distributed",)),
    "distributed/device": Room("broadcasts of GPUs", 4.2, ("distributed.device",)),
    "distributed/ring": Room("shared memory of a node", 3.4, ("distributed.ring",)),
    "distributed/ranks": Room("messages of ranks", 6, ("distributed.ranks",)),
    "pipeline": Room("the engine", 2.6, ("pipeline",)),
    "pipeline/cuda": Room("land on a GPU", 2.6, ("pipeline.cuda",)),
    "pipeline/landing": Room("land on the host", 2.1, ("pipeline.landing",)),
    "pipeline/memory": Room("slabs, the limit", 1.9, ("pipeline.memory",)),
    "report": Room("what a load did", 0.4, ("report",)),
    "pipeline/tally": Room("count and time", 1.4, ("pipeline.tally",)),
    "pipeline/plan": Room("groups and reads", 1.4, ("pipeline.plan",)),
    "checkpoint": Room("the format", 0.8, ("checkpoint",)),
    "files, mirror": Room("list and pull", 5, ("files", "mirror", "object_storage_model")),
    "io/storage": Room("open and list", 3.5, ("io.storage",)),
    "io/s3": Room("sign and list", 4.1, ("io.s3",)),
    "io/hub": Room("hf://", 5.05, ("io.hub",)),
    "io/gcs": Room("gs://", 6, ("io.gcs",)),
    "io/azure": Room("az://", 2.9, ("io.azure",)),
    "io/web": Room("https:// and http://", 5.6, ("io.web",)),
    "io/s3/errors": Room("what answers mean", 4.1, ("io.s3.errors",)),
    "io/objects": Room("ranges of one version", 4.6, ("io.objects",)),
    "io/http": Room("move bytes, try again", 4.6, ("io.http",)),
    "io/cache": Room("objects on the disk", 3.5, ("io.cache",)),
    "io/files": Room("local files", 3.5, ("io.files",)),
    "io": Room("the Source seam", 1.8, ("io",)),
    "kernels": Room("compiled by numba", 2.9, ("kernels",)),
}

WIDTH, BOX, HEIGHT, FLOOR, MARGIN = 1160, 150, 44, 84, 24
COLUMN = (WIDTH - 2 * MARGIN - BOX) / 6


def room_of(module: str) -> str | None:
    """The picture's room of a module; None on the ground."""
    found = [
        (len(prefix), name)
        for name, room in ROOMS.items()
        for prefix in room.prefixes
        if module == prefix or module.startswith(prefix + ".")
    ]
    return max(found)[1] if found else None


def arrows(imports: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """Room -> the rooms that it imports, from module -> the modules that it imports."""
    found: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, targets in imports.items():
        room = room_of(module)
        if room is not None:
            found[room].update(other for other in map(room_of, targets) if other is not None and other != room)
    return found


def floors(drawn: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> its floor: one above the highest that it imports."""
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((floor(other) for other in drawn[room]), default=-1)
        return found[room]

    for room in drawn:
        floor(room)
    return found


def reduced(drawn: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that follow from others."""

    def reach(room: str) -> set[str]:
        return {far for other in drawn[room] for far in ({other} | reach(other))}

    return {
        room: {target for target in targets if not any(target in reach(other) for other in targets)}
        for room, targets in drawn.items()
    }


def places(drawn: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Room -> the middle of its box."""
    levels = floors(drawn)
    top = max(levels.values())
    return {
        name: (MARGIN + BOX / 2 + room.column * COLUMN, MARGIN + HEIGHT / 2 + (top - levels[name]) * FLOOR)
        for name, room in ROOMS.items()
    }


def svg(imports: Mapping[str, frozenset[str]]) -> str:
    """The picture, from module -> the modules that it imports."""
    lines = reduced(arrows(imports))
    where = places(lines)
    bottom = max(y for _, y in where.values()) + HEIGHT / 2
    frame = f'viewBox="0 0 {WIDTH} {bottom + 80:.0f}" font-family="system-ui, sans-serif" text-anchor="middle"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#8a93a5"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{bottom + 80:.0f}" fill="#ffffff"/>',
        *(_arrow(where[room], where[target]) for room, targets in lines.items() for target in sorted(targets)),
        *(_box(room, *place) for room, place in where.items()),
        _ground(
            sorted({module.partition(".")[0] for module in imports if room_of(module) is None} - {"__init__"}),
            bottom + 24,
        ),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (tx, ty) = start, end
    y, ty = y + HEIGHT / 2, ty - HEIGHT / 2 - 1
    bend = min(FLOOR, (ty - y)) * 0.6
    way = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {tx:.0f} {ty - bend:.0f} {tx:.0f} {ty:.0f}"
    return f'<path d="{way}" fill="none" stroke="#b3bac8" stroke-width="1.4" marker-end="url(#tip)"/>'


def _box(name: str, x: float, y: float) -> str:
    colour = "#e8f1fd" if name.startswith("pipeline") else "#e9f7ee" if name.startswith("io") else "#f4f1ea"
    corner = f'x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="7"'
    return "\n".join(
        [
            f'<rect {corner} fill="{colour}" stroke="#6b7488"/>',
            f'<text x="{x:.0f}" y="{y - 2:.0f}" font-size="14" font-weight="600" fill="#1d2433">{escape(name)}</text>',
            f'<text x="{x:.0f}" y="{y + 14:.0f}" font-size="11" fill="#4a5468">{escape(ROOMS[name].what)}</text>',
        ]
    )


def _ground(modules: list[str], y: float) -> str:
    text = f"most rooms import: {', '.join(modules)}"
    corner = f'x="{MARGIN}" y="{y:.0f}" width="{WIDTH - 2 * MARGIN}" height="36" rx="7"'
    return "\n".join(
        [
            f'<rect {corner} fill="#f0f0f3" stroke="#a5abb8"/>',
            f'<text x="{WIDTH / 2:.0f}" y="{y + 22:.0f}" font-size="12" fill="#4a5468">{escape(text)}</text>',
        ]
    )


if __name__ == "__main__":
    from tests.test_architecture import imported_modules

    PICTURE.write_text(svg(imported_modules()), encoding="utf-8")
