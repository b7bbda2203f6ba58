"""docs/troubleshooting.md: every error has its place, and every message there is one that the code raises so.

Messages are read off the sources: what is put into an error, or into what an error is made of. What differs from case
to case is `…`, here as there.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer import errors
from tests.test_errors import BUILT_IN

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "runai_model_streamer"
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CLASSES = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

UNSEEN = {"InterruptedReadError"}
"""Never reach the caller."""

MADE_ELSEWHERE = {
    "changed": "SourceChangedError",
    "_unfit": "ReadError",
    "translated": "WriteError",
}
"""Functions that put the text they are given into an error of this class."""

CHOSEN_APART = {
    "WriteError": "mirror/target.py",
    "WriteDeniedError": "mirror/target.py",
    "StorageUnreachableError": "io/s3/errors/provenance.py",
    "StorageTimeoutError": "io/objects/errors/network.py",
}
"""Class -> module in which the text stands on its own."""

COMPLETE = (
    "io/s3/errors/store.py",
    "io/s3/errors/network.py",
    "io/objects/errors/network.py",
    "io/web/errors.py",
    "io/hub/errors.py",
    "io/gcs/errors.py",
    "io/azure/access.py",
    "io/azure/account.py",
    "io/azure/credentials.py",
    "io/azure/errors.py",
    "io/objects/listing.py",
    "io/http/answers.py",
    "io/s3/access.py",
    "io/files/failures.py",
    "io/files/posix.py",
    "io/listing.py",
    "io/files/listing.py",
    "pipeline/memory/pool.py",
    "pipeline/plan/request.py",
    "pipeline/prepare.py",
    "pipeline/load.py",
    "base_streamer.py",
    "device.py",
)
"""Modules whose messages are all on the page; but for those of `EXPLAIN_THEMSELVES`."""

JOINTS = {
    name: parameter.default
    for name, parameter in inspect.signature(errors.StreamerError).parameters.items()
    if name in ("lead", "sep")
}
"""What an error's `str()` puts between the path, the problem and the remedy, where a call does not say."""

EXPLAIN_THEMSELVES = ("ArgumentError", "ArgumentTypeError", "InterruptedReadError")


def named(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w+\}", "…", node.value)  # of str.format
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def assignments(tree: ast.AST) -> dict[str, list[str]]:
    """Name -> the texts that are assigned to it, `a, b = "x", "y"` included."""
    assigned: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                parts = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                assigned.setdefault(named(name), []).extend(text for part in parts if (text := text_of(part)))
    return assigned


def whole(problem: str, call: ast.Call, assigned: dict[str, list[str]]) -> Iterator[str]:
    """The message that `StreamerError.__str__` makes of a problem and the keywords of its call."""
    parts = {keyword.arg: keyword.value for keyword in call.keywords}
    lead, sep = (ast.literal_eval(parts[name]) if name in parts else usual for name, usual in JOINTS.items())
    where = f"…{lead}" if "where" in parts and lead is not None else ""
    if "remedy" not in parts:
        yield where + problem
        return
    remedy = text_of(parts["remedy"])
    for each in assigned.get(named(parts["remedy"]) or "a call", ["…"]) if remedy is None else [remedy]:
        yield f"{where}{problem}{sep}{each}"


def raised(path: Path) -> Iterator[tuple[str, str]]:
    """Class and text of every error that a module makes, as far as they are in one place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = assignments(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = [node.func, *node.args]
        elif isinstance(node, ast.Tuple):
            parts = node.elts
        else:
            continue
        # `Kind(text)`, `Explanation(Kind, text)`, `(Kind, text)`, `function(text)`, `function(about, text)`
        for place, name in enumerate(map(named, parts[:2])):
            kind = MADE_ELSEWHERE.get(name, name)
            if kind in CLASSES:
                span = parts[place + 1 : place + (3 if name in MADE_ELSEWHERE else 2)]
                for part in span:
                    text = text_of(part)
                    texts = assigned.get(named(part), []) if text is None else [text]
                    for each in filter(re.compile(r"\w").search, texts):
                        if isinstance(node, ast.Call) and name not in MADE_ELSEWHERE:
                            yield from ((kind, text) for text in whole(each, node, assigned))
                        else:
                            yield kind, each
                break


def everything() -> dict[str, set[str]]:
    """Class -> texts."""
    found: dict[str, set[str]] = {name: set() for name in CLASSES}
    for path in sorted(PACKAGE.rglob("*.py")):
        for kind, text in raised(path):
            found[kind].add(text)
    for kind, module in CHOSEN_APART.items():
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        found[kind] |= {each for node in ast.walk(tree) if (each := text_of(node))}
    return found


RAISED = everything()


def sections() -> dict[str, tuple[str, list[str]]]:
    """Class -> what it says that code catches, and its messages."""
    parts = re.split(r"^### (\w+) \((\w+)\)$", PAGE, flags=re.MULTILINE)
    return {
        name: (built_in, re.findall(r"^\| `([^`]+)` \|", body, re.MULTILINE))
        for name, built_in, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


SECTIONS = sections()


def says(text: str, message: str) -> bool:
    """Whether a message of the page is what the code raises, or a part of it."""
    return re.search(".*".join(map(re.escape, message.split("…"))), text, re.DOTALL) is not None


def test_every_error_has_its_section_with_the_built_in_that_code_catches() -> None:
    assert {name: built_in for name, (built_in, _) in SECTIONS.items()} == {
        name: kind.__name__ for name, kind in BUILT_IN.items() if name not in UNSEEN
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [(kind, message) for kind, (_, messages) in SECTIONS.items() for message in messages],
)
def test_a_message_of_the_page_is_raised_by_that_error(kind: str, message: str) -> None:
    assert any(says(text, message) for text in RAISED[kind])


def test_every_section_has_a_message() -> None:
    assert [name for name, (_, messages) in SECTIONS.items() if not messages] == []


@pytest.mark.parametrize("module", COMPLETE)
def test_every_message_of_a_module_is_on_the_page(module: str) -> None:
    missing = {
        f"{kind}: {text}"
        for kind, text in raised(PACKAGE / module)
        if kind not in EXPLAIN_THEMSELVES and not any(says(text, message) for message in SECTIONS[kind][1])
    }
    assert missing == set()


@pytest.mark.parametrize(
    "call",
    [
        'ReadError("it fails")',
        'ReadError("it fails", where=path)',
        'ReadError(f"{span}: it fails", where=path, remedy="mend it")',
        'HeaderError("is empty", where=path, remedy=f"mend {span}", lead=" ", sep=": ")',
        'ConfigError("it fails", where=path, lead=None)',
        'StateError("it fails", remedy=AGAIN, tensor=span)',
        'errors.TruncatedError("it fails", where=errors.Where(path, None), remedy=AGAIN, sep=". ")',
    ],
)
def test_a_message_is_read_off_the_source_as_str_makes_it_of_its_parts(tmp_path: Path, call: str) -> None:
    module = tmp_path / "module.py"
    module.write_text(f'AGAIN = "do it again"\nraise {call}\n', encoding="utf-8")
    error = eval(call, vars(errors) | {"errors": errors, "path": "…", "span": "…", "AGAIN": "do it again"})
    assert list(raised(module)) == [(type(error).__name__, str(error))]
