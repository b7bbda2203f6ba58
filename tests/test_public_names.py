"""What `runai_model_streamer` exports is what its README documents, no more and no less."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import runai_model_streamer

README = Path(__file__).parents[1] / "README.md"


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
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", README.read_text(encoding="utf-8"), re.DOTALL))
    assert re.search(rf"\b{name}\b", code), f"the README does not mention `{name}`"


def test_the_readme_imports_public_names_only() -> None:
    text = README.read_text(encoding="utf-8")
    imports = re.findall(r"from runai_model_streamer import (?:\(([^)]*)\)|([^\n(]*))", text)
    names = {name.split(" as ")[0].strip() for group in imports for name in "".join(group).split(",")} - {""}
    assert names, "the README shows no import"
    assert names <= set(runai_model_streamer.__all__)
