"""The reference (docs/api): every public name is on one of its pages, and every error leads to its remedies."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import runai_model_streamer
from runai_model_streamer import errors, plots, profiling, testing
from runai_model_streamer.errors import StreamerError

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / "api").glob("*.md"))}
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
SHOWN = [name for text in PAGES.values() for name in DIRECTIVE.findall(text)]
ERRORS = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, StreamerError)]


def found(path: str) -> object:
    """Return what a dotted name stands for."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_every_public_name_is_on_a_page_of_the_reference() -> None:
    public = {
        *(f"runai_model_streamer.{name}" for name in runai_model_streamer.__all__),
        *(f"runai_model_streamer.profiling.{name}" for name in profiling.__all__),
        *(f"runai_model_streamer.plots.{name}" for name in plots.__all__),
        *(
            f"{testing.__name__}.{name}"
            for name, each in vars(testing).items()
            if getattr(each, "__module__", "") == testing.__name__ and name[0] != "_"
        ),
        *(f"runai_model_streamer.errors.{name}" for name in ERRORS),
    }
    shown = {id(found(path)) for path in SHOWN}
    assert {path for path in public if id(found(path)) not in shown} == set()


def test_the_reference_shows_nothing_twice() -> None:
    assert len(SHOWN) == len({id(found(path)) for path in SHOWN})


@pytest.mark.parametrize("path", SHOWN)
def test_what_the_reference_shows_has_a_docstring(path: str) -> None:
    assert (found(path).__doc__ or "").strip()


@pytest.mark.parametrize("name", ERRORS)
def test_the_reference_of_an_error_leads_to_its_messages_and_remedies(name: str) -> None:
    _, after = re.split(rf"^::: runai_model_streamer\.errors\.{name}$", PAGES["errors"], flags=re.MULTILINE)
    link = re.match(r"(?:\n    .*)*\n\n\[Messages and remedies\]\(\.\./troubleshooting\.md#(\w+)-\w+\)", after)
    if f"\n### {name} " in (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"):
        assert link
        assert link[1] == name.lower()
    else:
        assert name == "InterruptedReadError"  # it never reaches the caller
