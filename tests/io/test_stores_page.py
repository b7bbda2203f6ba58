"""docs/stores.md: each cell of its table of tests is the name of one."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_cell_of_the_table_of_stores_names_a_test() -> None:
    page = (TESTS.parent / "docs" / "stores.md").read_text(encoding="utf-8")
    table = page.partition("## What is tested")[2]
    named = set(re.findall(r"`([Tt]est\w+)`", table))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (TESTS / "io").rglob("test_*.py"))
    there = set(re.findall(r"(?:def|class) ([Tt]est\w+)", sources))
    assert len(named) > 10
    assert named - there == set()
