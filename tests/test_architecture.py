"""The rules of the package's shape that can be read off its imports, and off what importing it does."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "runai_model_streamer"
LONGEST_MODULE = 300

# Imports run one way. Each part of the package, and what it may import of ours: parts, or single modules of one.
# A new module at the top of the package gets its line here.
MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    "errors": (),
    "logs": ("config",),
    "config": ("errors", "io.ranges", "io.source"),
    "device": ("errors",),
    "kernels": (),
    "io": ("errors", "config", "kernels"),
    "pipeline": ("errors", "config", "io", "kernels"),
    "mirror": ("errors", "config", "logs", "io"),
    "clash": (),
    "variables": ("config",),
    "files": ("clash", "config", "logs", "io", "mirror", "variables"),
    "object_storage_model": ("errors", "files", "io", "mirror"),
    "distributed": ("errors", "config", "io", "pipeline"),
    "report": (),
    "verdict": ("report",),
    "reporting": ("config", "pipeline", "report", "verdict"),
    "progress": ("errors",),
    "streaming": (
        "clash",
        "errors",
        "config",
        "distributed",
        "logs",
        "pipeline",
        "progress",
        "report",
        "reporting",
        "variables",
    ),
    "streamer": ("errors", "device", "pipeline", "io", "progress", "reporting", "streaming"),
    "chunk_streamer": ("config", "errors", "device", "files", "io", "pipeline", "progress", "reporting", "streaming"),
    "testing": ("files", "io", "streamer"),
    "cli": (
        "__init__",
        "clash",
        "config",
        "errors",
        "files",
        "io",
        "logs",
        "mirror",
        "pipeline",
        "profiling",
        "report",
        "variables",
    ),
    "profiling": ("errors", "io", "report", "streamer"),
    "plots": ("errors", "io.source", "profiling", "report"),
    # Where the original has its names.
    "s3_utils": ("io",),
    "distributed_streamer": ("chunk_streamer",),
    "file_streamer": ("chunk_streamer", "errors", "pipeline.chunks"),
    "safetensors_streamer": ("files", "object_storage_model", "streamer", "testing"),
    "__init__": (
        "errors",
        "files",
        "object_storage_model",
        "chunk_streamer",
        "streamer",
        "io",
        "pipeline.chunks",
        "pipeline.selection",
        "progress",
        "report",
    ),
}

# Packages that only some modules may know of, whatever the place of the import; prefixes of modules, without ours.
ONLY_IN = {
    "torch": (
        "cli",
        "pipeline",
        "profiling",
        "streaming",
        "streamer",
        "chunk_streamer",
        "device",
        "distributed",
        "kernels",
    ),
    "matplotlib": ("plots",),
    "PIL": ("plots",),
    "boto3": ("io.s3",),
    "botocore": ("io.s3",),
    "mypy_boto3_s3": ("io.s3",),
    "awscrt": ("io.checksums",),
    "kvikio": ("io.gds",),
    "llvmlite": ("kernels",),
    "numba": ("kernels",),
}
# Those of them that cost too much, or may be missing, to be imported before they are needed.
LAZY = ("awscrt", "boto3", "botocore", "mypy_boto3_s3", "kvikio")


@dataclass(frozen=True, slots=True)
class Import:
    """One module that a line of code imports."""

    name: str
    line: int
    lazy: bool
    """Inside a function, or for the type checker alone."""


def imports_of(source: str, modules: frozenset[str]) -> Iterator[Import]:
    """Every import of a module's source. `from a import b` is an import of `a.b` where that is one of `modules`."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in modules else base, node.lineno, lazy)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                yield Import(str(node.args[0].value), node.lineno, lazy)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy = True
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for line in node.body:
                yield from visit(line, True)
            for line in node.orelse:
                yield from visit(line, lazy)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    return visit(ast.parse(source), False)


def violations(sources: Mapping[str, str]) -> list[str]:
    """What breaks the rules in a package, given as the source of each module by its name (`io.posix`)."""
    known = frozenset(f"{PACKAGE}.{name}" for name in sources)
    found = []
    for module, source in sources.items():
        part = module.partition(".")[0]
        if part not in MAY_IMPORT:
            found.append(f"{module}: has no line in MAY_IMPORT")
            continue
        for imported in imports_of(source, known):
            where = f"{module}:{imported.line}"
            top = imported.name.partition(".")[0]
            if imported.name.startswith("."):
                found.append(f"{where}: relative import")
            elif top == PACKAGE:
                ours = imported.name.removeprefix(PACKAGE).lstrip(".") or "__init__"
                if not _is_under(ours, (part, *MAY_IMPORT[part])):
                    found.append(f"{where}: {part} may not import {ours}")
            elif top in ONLY_IN and not module.startswith(ONLY_IN[top]):
                found.append(f"{where}: may not know {top}")
            elif top in LAZY and not imported.lazy:
                found.append(f"{where}: {top} is imported before it is needed")
    return found


def _is_under(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def read_package() -> dict[str, str]:
    folder = ROOT / PACKAGE
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        names = path.relative_to(folder).with_suffix("").parts
        if len(names) > 1 and names[-1] == "__init__":
            names = names[:-1]
        sources[".".join(names)] = path.read_text(encoding="utf-8")
    return sources


def test_the_package_keeps_its_import_rules() -> None:
    sources = read_package()
    assert {"__init__", "errors", "io", "io.source", "pipeline"} <= sources.keys()
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("io.posix", "from runai_model_streamer.pipeline.plan import Group"),
        ("io.posix", "from runai_model_streamer import pipeline"),
        ("io.posix", "import runai_model_streamer.streamer"),
        ("io.posix", "from runai_model_streamer import SafetensorsStreamer"),
        ("io.posix", "from ..pipeline import plan"),
        ("io.posix", "import torch"),
        ("io.posix", "def f():\n    from torch.cuda import Stream"),
        ("io.posix", "if TYPE_CHECKING:\n    import torch"),
        ("io.posix", "def f():\n    import boto3"),
        ("io.posix", "def f():\n    importlib.import_module('botocore.session')"),
        ("io.posix", "def f():\n    import kvikio"),
        ("io.gds", "from kvikio import CuFile"),
        ("io.s3", "import boto3"),
        ("io.s3", "from botocore.exceptions import ClientError"),
        ("io.s3", "if not TYPE_CHECKING:\n    import boto3"),
        ("io.s3", "if TYPE_CHECKING:\n    pass\nelse:\n    import boto3"),
        ("io.s3", "class C:\n    import boto3"),
        ("pipeline.plan", "from runai_model_streamer.streamer import SafetensorsStreamer"),
        ("pipeline.plan", "def f():\n    import botocore"),
        ("kernels.cast", "from runai_model_streamer.errors import StreamerError"),
        ("errors", "from runai_model_streamer.config import StreamerConfig"),
        ("config", "from runai_model_streamer.io.posix import LocalFile"),
        ("helpers", "import os"),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(module: str, line: str) -> None:
    package = dict.fromkeys(("__init__", "io", "pipeline", "pipeline.plan", "streamer", "kernels"), "")
    assert len(violations(package | {module: line})) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("io.posix", "from runai_model_streamer.errors import ReadError"),
        ("io.posix", "from runai_model_streamer.io import ranges"),
        ("io.s3", "def f():\n    import boto3"),
        ("io.s3_errors", "if TYPE_CHECKING:\n    from botocore.exceptions import ClientError"),
        ("io.transport", "def f():\n    from runai_model_streamer.kernels.curl import copy"),
        ("pipeline.tensors", "import torch"),
        ("config", "from runai_model_streamer.io.source import SourceKind"),
    ],
)
def test_an_import_that_keeps_the_rules_passes(module: str, line: str) -> None:
    assert violations({"__init__": "", "io": "", "io.ranges": "", module: line}) == []


def test_every_module_is_short_enough_to_read() -> None:
    lengths = {module: len(source.splitlines()) for module, source in read_package().items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_MODULE} == {}


_IMPORT = """
import json, os, sys, threading
import numpy, torch
threads = set(os.listdir("/proc/self/task"))
import runai_model_streamer
for name in runai_model_streamer.__all__:
    getattr(runai_model_streamer, name)
print(json.dumps({
    "package": runai_model_streamer.__file__,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "threads": [thread.name for thread in threading.enumerate()],
    "tasks": len(set(os.listdir("/proc/self/task")) - threads),
}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, object]:
    """What a fresh process looks like after `from runai_model_streamer import *`."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    assert Path(facts["package"]).parent == ROOT / PACKAGE
    return facts


def test_importing_the_package_loads_nothing_optional(imported: dict[str, list[str]]) -> None:
    optional = {"awscrt", "boto3", "botocore", "s3transfer", "cuda", "cupy", "kvikio", "numba", "numba_cuda"}
    optional |= {"IPython", "PIL", "matplotlib", "rich"}
    assert PACKAGE in imported["modules"]
    assert optional.intersection(imported["modules"]) == set()


def test_importing_the_package_starts_no_thread(imported: dict[str, object]) -> None:
    assert imported["threads"] == ["MainThread"]
    assert imported["tasks"] == 0
