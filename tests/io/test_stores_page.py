"""docs/stores.md: each cell of its table of tests is the name of one, and each message one that the code raises."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
STORES = 5


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_each_cell_of_the_table_of_stores_names_a_test() -> None:
    table = section((DOCS / "stores.md").read_text(encoding="utf-8"), "What is tested")
    rows = [row.split("|")[2:-1] for row in table.splitlines() if row.startswith("|")]
    assert {len(row) for row in rows} == {STORES}
    named = set(re.findall(r"`([Tt]est\w+)`", table))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    there = set(re.findall(r"(?:def|class) ([Tt]est\w+)", sources))
    assert len(named) > 10
    assert named - there == set()


def test_each_message_of_the_table_of_failures_is_on_the_page_of_messages() -> None:
    """tests/test_docs_messages.py compares those with the code."""
    table = section((DOCS / "stores.md").read_text(encoding="utf-8"), "What goes wrong")
    rows = [row for row in table.splitlines() if row.startswith("| ")][2:]
    assert len(rows) == STORES
    messages = {message for row in rows for message in re.findall(r"`([^`]+)`", row)}
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert {message for message in messages if f"| `{message}` |" not in page} == set()
