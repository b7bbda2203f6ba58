"""Tests hand in what differs, rather than patch the package. The few patches that are left are counted here."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

HERE: Final = Path(__file__).parent
PACKAGE: Final = "runai_model_streamer"
MAX_PATCHES: Final = 20
METHODS: Final = frozenset({"setattr", "setitem", "delattr", "delitem"})
"""Of pytest's MonkeyPatch."""


class Patch(NamedTuple):
    """A place where a test changes something of the package."""

    line: int
    text: str
    reasoned: bool
    """A comment on the line above says why."""


def _root(node: ast.expr) -> str | None:
    """The name that an expression such as `a.b[0].c()` begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_made(node: ast.Attribute) -> bool:
    """Whether the attribute is one of what a call returns."""
    return any(isinstance(each, ast.Call) for each in ast.walk(node))


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that imports bind, and the module that each is from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield each.asname or each.name.partition(".")[0], each.name
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                yield each.asname or each.name, node.module or ""


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def patches_in(source: str) -> list[Patch]:
    """What a test module patches of the package, by MonkeyPatch, by `unittest.mock`, or by assignment.

    A name that was not imported may be anything of the package's, so it counts.
    """
    tree, lines = ast.parse(source), source.splitlines()
    imported = dict(_imported(tree))
    made_here = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    made_here |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and not _is_ours(imported.get(_root(node.value or target) or "", ""))
    }

    def counts(target: ast.expr) -> bool:
        if isinstance(target, ast.Constant):
            return isinstance(target.value, str) and _is_ours(target.value)
        root = _root(target)
        if root == "__import__":
            return any(isinstance(each, ast.Constant) and _is_ours(str(each.value)) for each in ast.walk(target))
        return root not in made_here and _is_ours(imported.get(root or "", PACKAGE))

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            patched = bool(node.args) and counts(node.args[0])
        elif isinstance(node, ast.Assign):
            attributes = [each for each in node.targets if isinstance(each, ast.Attribute) and not _is_made(each)]
            patched = any(_is_ours(imported.get(_root(each) or "", "")) for each in attributes)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names]
            patched = "unittest.mock" in names or (isinstance(node, ast.ImportFrom) and node.module == "unittest.mock")
        else:
            continue
        if patched:
            above = lines[node.lineno - 2].strip() if node.lineno > 1 else ""
            found.append(Patch(node.lineno, lines[node.lineno - 1].strip(), above.startswith("# ")))
    return found


def patches() -> dict[str, Patch]:
    """All patches of the package in its tests, by file and line."""
    found = {}
    for path in sorted(HERE.rglob("*.py")):
        for patch in patches_in(path.read_text(encoding="utf-8")):
            found[f"{path.relative_to(HERE)}:{patch.line}"] = patch
    return found


def test_tests_patch_little_of_the_package() -> None:
    found = patches()
    assert len(found) <= MAX_PATCHES, "\n".join(f"{place}: {patch.text}" for place, patch in found.items())


def test_every_patch_has_its_reason_on_the_line_above() -> None:
    assert {place: patch.text for place, patch in patches().items() if not patch.reasoned} == {}


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(pool, "MAX", 1)',
        'patch.setattr(SlabPool, "close", print)',
        'monkeypatch.setattr("runai_model_streamer.config.X", 1)',
        'monkeypatch.setattr(made[0].transport, "close", print)',
        "monkeypatch.setitem(pool.SIZES, 1, 2)",
        'monkeypatch.delattr("runai_model_streamer.config")',
        "pool.MAX = 1",
        "from unittest.mock import patch",
        "import unittest.mock",
    ],
)
def test_a_patch_of_the_package_is_found(line: str) -> None:
    imports = f"from {PACKAGE}.pipeline.memory import pool\nfrom {PACKAGE}.pipeline.memory.pool import SlabPool\n"
    assert [patch.reasoned for patch in patches_in(f"{imports}{line}\n")] == [False]
    assert [patch.reasoned for patch in patches_in(f"{imports}# Nothing else can tell.\n{line}\n")] == [True]


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(threading.Thread, "start", print)',
        'monkeypatch.setattr("IPython.display.display", print)',
        'monkeypatch.setitem(sys.modules, "numba", None)',
        'monkeypatch.setitem(__import__("sys").modules, "numba", None)',
        'monkeypatch.setenv("A", "b")',
        "streamer.attribute = 1",
    ],
)
def test_what_is_not_the_packages_may_be_replaced(line: str) -> None:
    assert patches_in(f"import sys\nimport threading\n{line}\n") == []
