"""The pictures of the documentation: each is what its script draws, is shown on a page, and says what is measured."""

import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from docs.pictures import drawing, ranks, slab, throughput, timeline, way

ROOT = Path(__file__).parents[1]
DRAWN = [ranks, slab, throughput, timeline, way]
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


every_picture = pytest.mark.parametrize("module", DRAWN, ids=name_of)


@every_picture
def test_a_picture_is_what_its_script_draws(module: ModuleType) -> None:
    name = name_of(module)
    text = (drawing.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert text == module.svg(), f"python -m docs.pictures.{name}"


@every_picture
def test_a_picture_is_on_a_page_with_words_for_those_who_do_not_see_it(module: ModuleType) -> None:
    assert re.search(rf"!\[[^\]]{{20,}}\]\([\w./]*pictures/{name_of(module)}\.svg\)", PAGES)


@every_picture
def test_nothing_of_a_picture_lies_outside_of_it(module: ModuleType) -> None:
    root = ElementTree.fromstring(module.svg())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for each in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, wide, high = (float(each.attrib[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    for each in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 < float(each.attrib["y"]) < height, each.text


def test_every_picture_has_a_script() -> None:
    assert {path.stem for path in drawing.FOLDER.glob("*.svg")} == {name_of(module) for module in DRAWN} | {"house"}


def test_the_figures_next_to_other_loaders_are_those_of_the_runs() -> None:
    runs = (ROOT / "benchmarks" / "RUNS.md").read_text(encoding="utf-8")
    rows = throughput.measured()
    assert len(rows) > 4
    for row in rows:
        for rate in (*row.rates, row.limit):
            assert rate is None or re.search(rf"\| {rate:.2f} [|(]", runs), (row.what, rate)


def test_the_caller_of_the_timeline_gets_groups_in_order_and_none_before_its_reads() -> None:
    landed = timeline.reads()
    used = timeline.uses(landed)
    assert [span.group for span in used] == list(range(timeline.GROUPS))
    for span in used:
        assert span.start >= max(read.end for read in landed if read.group == span.group)


def test_the_readmes_figures_are_those_of_the_table() -> None:
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    rows = {row.what: row.rates for row in throughput.measured()}
    chosen = [
        rows[name]
        for name in ("page cache, tensors dropped", "cold local disk, tensors dropped", "object storage, HTTP")
    ]
    speeds = "that is {:.2f} GB/s from the page cache, {:.2f} GB/s from a cold disk and {:.2f} GB/s from object storage"
    assert speeds.format(*(rates[0] for rates in chosen)) in readme
    ratios = sorted((rates[0] or 0) / (rates[1] or 1) for rates in chosen)
    assert f"{ratios[0]:.1f} to {ratios[-1]:.1f} times the original's" in readme
