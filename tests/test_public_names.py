"""What `runai_model_streamer` exports is what its README and docs/ document, no more and no less."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import runai_model_streamer

ROOT = Path(__file__).parents[1]
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))))


def test_every_listed_name_is_there() -> None:
    assert [name for name in runai_model_streamer.__all__ if not hasattr(runai_model_streamer, name)] == []


def test_nothing_is_exported_by_accident() -> None:
    visible = {
        name
        for name, value in vars(runai_model_streamer).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert visible <= set(runai_model_streamer.__all__)


@pytest.mark.parametrize("name", runai_model_streamer.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", PAGES, re.DOTALL))
    assert re.search(rf"\b{name}\b", code), f"neither the README nor a page of docs/ mentions `{name}`"


def test_the_pages_import_public_names_only() -> None:
    imports = re.findall(r"from runai_model_streamer import (?:\(([^)]*)\)|([^\n;(]*))", PAGES)
    names = {name.split(" as ")[0].strip() for group in imports for name in "".join(group).split(",")} - {""}
    assert names, "no page shows an import"
    assert names <= set(runai_model_streamer.__all__)
