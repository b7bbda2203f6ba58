"""The tables of docs/environment.md, from the table of settings. `python -m tests.environment_page` writes them."""

import re
from pathlib import Path

from runai_model_streamer.settings.table import SECTIONS

PAGE = Path(__file__).parents[1] / "docs" / "environment.md"
_HEAD = "| variable | type | default | change it when |\n| --- | --- | --- | --- |\n"


def table(section: str) -> str:
    """The table of one section, in Markdown."""
    rows = ((f"`{each.name}`", each.parser.kind, each.default, each.sentence) for each in SECTIONS[section])
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_tables(text: str) -> str:
    """The page with the tables as they should be."""
    for section in SECTIONS:
        match = re.search(rf"(?m)^## {re.escape(section)}\n\n(?P<table>(?:^\|.*\n)*)", text)
        if match is None:
            raise ValueError(f"{PAGE} has no section {section!r}")
        start, end = match.span("table")
        text = text[:start] + table(section) + text[end:]
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
