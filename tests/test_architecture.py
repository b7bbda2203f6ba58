"""The rules of the package's shape that can be read off its imports, and off what importing it does."""

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.pictures import house

ROOT = Path(__file__).parents[1]
PACKAGE = "runai_model_streamer"
LONGEST_MODULE = 300
LARGEST_FOLDER = 15

WEB_STORE = (
    "config",
    "errors",
    "installation",
    "io.http",
    "io.listing",
    "io.objects",
    "io.objects.errors",
    "io.secret",
    "io.setup_time",
    "io.web",
    "ranges",
)
"""What a store may import whose objects are read as files of a web server."""

# Imports run one way. Each room of the house, and what its modules may import of ours beside their own room: rooms with
# all that is in them, or single modules. A room is a folder, or one module; the longest name that fits a module is its
# room, so `io.s3` says nothing of `io.s3.errors`.
MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    "errors": ("io.secret", "ranges"),
    "ranges": (),
    "settings.units": (),
    "origins": (),
    "installation": (),
    "threads.forks": (),
    "threads.signals": (),
    "threads.times": ("io.kernel_files",),
    "threads": ("errors", "threads.signals"),
    "settings": ("errors", "io.secret"),
    "config": ("errors", "io.secret", "origins", "ranges", "settings"),
    "logs": ("config",),
    "device": ("errors",),
    "lifecycle": ("errors", "threads.signals"),
    "kernels": (),
    # What a file says of itself: bytes and sources, no settings.
    "checkpoint": ("errors", "io.source"),
    # Where bytes come from. No room of `io` knows of tensors.
    "io": (),
    "io.source": ("origins", "ranges"),
    "io.libc": (),
    "io.secret": (),
    "io.setup_time": (),
    "io.cgroups": ("io.kernel_files",),
    "io.kernel_files": (),
    "io.paths": ("errors", "io.secret", "origins"),
    "io.listing": ("errors", "io.paths"),
    "io.bandwidth": ("errors", "io.source", "origins", "ranges"),
    "io.checksums": ("errors", "installation", "io.source", "origins"),
    "io.files": (
        "config",
        "errors",
        "installation",
        "io.libc",
        "io.listing",
        "io.source",
        "origins",
        "ranges",
        "settings.units",
    ),
    "io.http": ("errors", "io.secret", "ranges", "threads.forks"),
    "io.http.curl": ("io.http", "io.libc", "ranges", "threads.forks", "threads.signals"),
    # One object behind HTTP, whichever store has it.
    "io.objects.errors": ("errors", "io.http", "ranges"),
    "io.objects": (
        "errors",
        "io.checksums",
        "io.http",
        "io.listing",
        "io.objects.errors",
        "io.setup_time",
        "io.source",
        "origins",
        "ranges",
    ),
    "io.s3.errors": ("config", "errors", "io.http", "io.objects.errors", "io.secret", "ranges"),
    "io.s3": (
        "config",
        "errors",
        "installation",
        "io.checksums",
        "io.http",
        "io.listing",
        "io.objects",
        "io.objects.errors",
        "io.s3.errors",
        "io.secret",
        "io.setup_time",
        "ranges",
    ),
    # Any server that serves ranges. An index, which names a model's files, takes the place of a listing.
    "io.web": (
        "checkpoint.index",
        "config",
        "errors",
        "io.checksums",
        "io.http",
        "io.listing",
        "io.objects",
        "io.objects.errors",
        "io.secret",
        "io.setup_time",
        "ranges",
    ),
    # google-auth's credentials; read as files of a web server, listed by the JSON API.
    "io.gcs": (*WEB_STORE, "io.checksums"),
    # Account keys, SAS tokens, azure-identity's tokens; read as files of a web server, listed in XML.
    "io.azure": WEB_STORE,
    # Resolved and listed by huggingface_hub, read as files of a web server.
    "io.hub": (*WEB_STORE, "io.checksums"),
    "io.cache_counts": ("settings.units",),
    # Objects on the node's disk, read as local files.
    "io.cache": (
        "config",
        "errors",
        "io.cache_counts",
        "io.checksums",
        "io.files",
        "io.libc",
        "io.listing",
        "io.paths",
        "io.secret",
        "io.source",
        "origins",
        "ranges",
        "threads.times",
    ),
    "io.storage": (
        "config",
        "io.azure",
        "io.bandwidth",
        "io.cache",
        "io.cache_counts",
        "io.checksums",
        "io.files",
        "io.gcs",
        "io.hub",
        "io.listing",
        "io.objects",
        "io.paths",
        "io.s3",
        "io.setup_time",
        "io.source",
        "io.web",
        "origins",
    ),
    # The engine, over what lands on a GPU, what lands at all, its memory, and the plan.
    "pipeline.plan": ("checkpoint", "config", "errors", "io.paths", "io.secret", "kernels.bits", "origins", "ranges"),
    "pipeline.tally": (
        "errors",
        "io.cache_counts",
        "io.paths",
        "io.setup_time",
        "io.source",
        "origins",
        "pipeline.plan",
        "threads.times",
    ),
    "pipeline.memory": (
        "config",
        "errors",
        "io.cgroups",
        "io.kernel_files",
        "io.libc",
        "lifecycle",
        "pipeline.plan",
        "pipeline.tally",
        "ranges",
        "threads.forks",
        "settings.units",
    ),
    "pipeline.landing": (
        "checkpoint",
        "config",
        "errors",
        "installation",
        "io.setup_time",
        "io.source",
        "kernels",
        "lifecycle",
        "origins",
        "pipeline.memory",
        "pipeline.plan",
        "pipeline.tally",
    ),
    "pipeline.cuda": (
        "checkpoint",
        "config",
        "errors",
        "installation",
        "io.cgroups",
        "io.files.cufile",
        "io.files.gds",
        "io.source",
        "kernels",
        "lifecycle",
        "origins",
        "pipeline.landing",
        "pipeline.memory",
        "pipeline.plan",
        "pipeline.tally",
        "ranges",
        "threads",
        "threads.forks",
    ),
    "pipeline": (
        "checkpoint",
        "config",
        "device",
        "errors",
        "io",
        "lifecycle",
        "origins",
        "pipeline.cuda",
        "pipeline.landing",
        "pipeline.memory",
        "pipeline.plan",
        "pipeline.tally",
        "ranges",
        "threads",
        "threads.forks",
    ),
    "mirror": (
        "config",
        "errors",
        "io",
        "logs",
        "origins",
        "pipeline.connections",
        "pipeline.memory.headroom",
        "pipeline.pace",
        "ranges",
        "settings.units",
        "threads",
    ),
    "files": ("checkpoint.index", "config", "errors", "installation", "io", "logs", "mirror", "settings"),
    "object_storage_model": ("errors", "files", "io", "mirror", "settings"),
    # How ranks talk; what they share, over that; and both in the service of a load.
    "distributed.ranks": ("checkpoint", "config", "errors", "io.paths", "lifecycle", "threads"),
    "distributed.ring": (
        "checkpoint",
        "config",
        "distributed.ranks",
        "errors",
        "io.libc",
        "io.source",
        "lifecycle",
        "origins",
        "pipeline",
        "ranges",
        "threads",
    ),
    "distributed.device": (
        "distributed.ranks",
        "distributed.ring",
        "errors",
        "lifecycle",
        "ranges",
        "settings.environment",
    ),
    "distributed": (
        "config",
        "distributed.device",
        "distributed.ranks",
        "distributed.ring",
        "errors",
        "io",
        "lifecycle",
        "origins",
        "pipeline",
        "ranges",
        "threads",
    ),
    "report.shared_load": ("settings.units",),
    "report.load_report": ("io.cache_counts", "io.setup_time", "origins", "report.shared_load", "settings.units"),
    "report.advice": ("report.load_report", "settings.units"),
    "report.verdict": ("origins", "report.advice", "report.load_report"),
    "report.progress": ("errors", "settings.units"),
    "report.make": ("config", "pipeline.tally", "report.load_report", "report.shared_load", "report.verdict"),
    "report": ("report.load_report",),
    "base_streamer": (
        "config",
        "distributed",
        "errors",
        "installation",
        "logs",
        "pipeline",
        "report",
        "settings",
        "threads.forks",
    ),
    "streamer": ("base_streamer", "checkpoint.tensor_info", "errors", "io", "pipeline", "report", "settings"),
    "range_streamer": ("base_streamer", "config", "errors", "files", "io", "pipeline", "report", "settings"),
    "access": (
        "checkpoint",
        "config",
        "device",
        "errors",
        "io",
        "logs",
        "pipeline",
        "settings",
        "streamer",
        "threads.forks",
    ),
    "testing": ("files", "io", "streamer"),
    # In another environment, where the name is the original's.
    "profiling.foreign_loader": ("__init__",),
    "profiling": ("errors", "io", "profiling.foreign_loader", "report.load_report", "settings", "streamer"),
    "plots": ("errors", "installation", "origins", "profiling", "report.load_report"),
    "cli.doctor": (
        "__init__",
        "cli.arguments",
        "cli.interrupts",
        "cli.output",
        "cli.targets",
        "config",
        "errors",
        "files",
        "installation",
        "io",
        "origins",
        "pipeline.cuda.driver",
        "pipeline.plan.ranges",
        "range_streamer",
        "ranges",
        "report.load_report",
        "settings",
    ),
    "cli.tune": (
        "__init__",
        "cli.arguments",
        "cli.interrupts",
        "cli.output",
        "cli.progress",
        "cli.targets",
        "config",
        "errors",
        "files",
        "io",
        "origins",
        "pipeline.opening",
        "profiling",
        "ranges",
        "report.load_report",
        "settings",
    ),
    "cli": (
        "__init__",
        "checkpoint",
        "cli.doctor.command",
        "cli.tune.command",
        "config",
        "errors",
        "files",
        "installation",
        "io",
        "logs",
        "mirror",
        "origins",
        "pipeline.opening",
        "pipeline.prepare",
        "report.load_report",
        "report.progress",
        "settings",
        "streamer",
    ),
    "__main__": ("cli.main",),
    "engines.vllm": ("config", "engines.vllm_loader", "errors"),
    "engines": ("config", "pipeline.plan.selection", "report.load_report", "streamer"),
    # Where the original has its names.
    "s3_utils": ("files", "io.listing", "io.paths", "io.s3.credentials"),
    "distributed_streamer": ("range_streamer",),
    "file_streamer": ("errors", "pipeline.plan.ranges", "range_streamer"),
    "safetensors_streamer": (
        "checkpoint.tensor_info",
        "files",
        "io.paths",
        "io.s3.credentials",
        "object_storage_model",
        "origins",
        "pipeline.opening",
        "streamer",
        "testing",
    ),
    "__init__": (
        "access",
        "errors",
        "files",
        "io.s3.credentials",
        "object_storage_model",
        "pipeline.cuda.arena",
        "pipeline.plan.ranges",
        "pipeline.plan.selection",
        "range_streamer",
        "report",
        "settings.streamer_config",
        "streamer",
    ),
}

# Packages that only some modules may know of, whatever the place of the import: rooms or modules, without ours.
ONLY_IN = {
    "torch": (
        "access",
        "base_streamer",
        "checkpoint.tensor_info",
        "cli",
        "device",
        "distributed",
        "engines",
        "kernels",
        "pipeline",
        "profiling",
        "range_streamer",
        "streamer",
    ),
    "matplotlib": ("plots",),
    "PIL": ("plots",),
    "boto3": ("io.s3",),
    "botocore": ("io.s3",),
    "mypy_boto3_s3": ("io.s3",),
    "awscrt": ("io.checksums",),
    "google": ("io.gcs",),
    "huggingface_hub": ("io.hub",),
    "llvmlite": ("kernels",),
    "numba": ("kernels",),
    "sglang": ("engines",),
    "vllm": ("engines",),
}
# Those of them that cost too much, or may be missing, to be imported before they are needed.
LAZY = ("awscrt", "boto3", "botocore", "google", "huggingface_hub", "mypy_boto3_s3")


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
        room = room_of(module)
        if room is None:
            found.append(f"{module}: has no row in MAY_IMPORT")
            continue
        for imported in imports_of(source, known):
            where = f"{module}:{imported.line}"
            top = imported.name.partition(".")[0]
            if imported.name.startswith("."):
                found.append(f"{where}: relative import")
            elif top == PACKAGE:
                ours = imported.name.removeprefix(PACKAGE).lstrip(".") or "__init__"
                if room_of(ours) != room and not _is_under(ours, MAY_IMPORT[room]):
                    found.append(f"{where}: {room} may not import {ours}")
            elif top in ONLY_IN and not _is_under(module, ONLY_IN[top]):
                found.append(f"{where}: may not know {top}")
            elif top in LAZY and not imported.lazy:
                found.append(f"{where}: {top} is imported before it is needed")
    return found


def room_of(module: str) -> str | None:
    """The longest name of `MAY_IMPORT` that is the module or a folder that it is in."""
    while module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
        if not module:
            return None
    return module


def imported_modules(sources: Mapping[str, str] | None = None) -> dict[str, frozenset[str]]:
    """Module -> the other modules of the package that it imports; of this package, where no sources are given."""
    sources = read_package() if sources is None else sources
    known = frozenset(f"{PACKAGE}.{name}" for name in sources)
    return {
        module: frozenset(
            imported.name.removeprefix(PACKAGE + ".")
            for imported in imports_of(source, known)
            if imported.name in known and imported.name != f"{PACKAGE}.{module}"
        )
        for module, source in sources.items()
    }


def circles(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other, directly or through others, each circle once."""
    edges = imported_modules(sources)
    found: set[str] = set()
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            circle = way[way.index(module) :]
            first = circle.index(min(circle))
            found.add(" -> ".join((*circle[first:], *circle[:first], circle[first])))
        elif module not in finished:
            for target in sorted(edges[module]):
                visit(target, (*way, module))
            finished.add(module)

    for module in sorted(edges):
        visit(module, ())
    return sorted(found)


def folders(modules: Collection[str]) -> dict[str, int]:
    """How many modules each folder of the package has, `__init__` aside."""
    packages = {module.rpartition(".")[0] for module in modules}
    return {folder: sum(m.rpartition(".")[0] == folder and m not in packages for m in modules) for folder in packages}


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
        ("io.files.posix", "from runai_model_streamer.pipeline.plan.groups import Group"),
        ("io.files.posix", "from runai_model_streamer import pipeline"),
        ("io.files.posix", "import runai_model_streamer.streamer"),
        ("io.files.posix", "from runai_model_streamer import SafetensorsStreamer"),
        ("io.files.posix", "from ..pipeline import plan"),
        ("io.files.posix", "import torch"),
        ("io.files.posix", "def f():\n    from torch.cuda import Stream"),
        ("io.files.posix", "if TYPE_CHECKING:\n    import torch"),
        ("io.files.posix", "def f():\n    import boto3"),
        ("io.files.posix", "def f():\n    importlib.import_module('botocore.session')"),
        ("io.s3.store", "import boto3"),
        ("io.s3.store", "from botocore.exceptions import ClientError"),
        ("io.s3.store", "if not TYPE_CHECKING:\n    import boto3"),
        ("io.s3.store", "if TYPE_CHECKING:\n    pass\nelse:\n    import boto3"),
        ("io.s3.store", "class C:\n    import boto3"),
        ("pipeline.plan.groups", "from runai_model_streamer.streamer import SafetensorsStreamer"),
        ("pipeline.plan.groups", "def f():\n    import botocore"),
        ("kernels.cast", "from runai_model_streamer.errors import StreamerError"),
        ("errors", "from runai_model_streamer.config import LoadConfig"),
        ("config", "from runai_model_streamer.io.files.posix import LocalFile"),
        ("helpers", "import os"),
        # One row for each direction of the house.
        ("config", "from runai_model_streamer.io.source import Source"),
        ("settings.table", "from runai_model_streamer.config import LoadConfig"),
        ("checkpoint.header", "from runai_model_streamer.config import LoadConfig"),
        ("io.http.retries", "from runai_model_streamer.io.s3.store import S3Store"),
        ("io.s3.errors.translation", "from runai_model_streamer.io.s3.access import Access"),
        ("io.files.posix", "from runai_model_streamer.io.storage import Storage"),
        ("io.http.curl.connection", "import botocore"),
        ("io.http.curl.connection", "def f():\n    from runai_model_streamer.kernels.host import cast"),
        ("pipeline.plan.groups", "from runai_model_streamer.pipeline.tally.load import Tally"),
        ("pipeline.plan.groups", "from runai_model_streamer.pipeline import load"),
        ("pipeline.tally.load", "from runai_model_streamer.pipeline.memory.pool import SlabPool"),
        ("pipeline.memory.pool", "from runai_model_streamer.pipeline.landing.tensors import make_tensors"),
        ("pipeline.landing.host", "from runai_model_streamer.pipeline.cuda.landing import CudaLanding"),
        ("pipeline.cuda.landing", "from runai_model_streamer.pipeline.load import Load"),
        ("report.verdict", "from runai_model_streamer.pipeline.tally.load import Tally"),
        ("cli.doctor.machine", "from runai_model_streamer.cli.tune.search import Trial"),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(module: str, line: str) -> None:
    package = dict.fromkeys(
        ("__init__", "io", "pipeline", "pipeline.load", "pipeline.plan.groups", "streamer", "kernels"), ""
    )
    assert len(violations(package | {module: line})) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("io.files.posix", "from runai_model_streamer.errors import ReadError"),
        ("io.files.posix", "from runai_model_streamer import ranges"),
        ("io.s3.store", "def f():\n    import boto3"),
        ("io.s3.errors.translation", "if TYPE_CHECKING:\n    from botocore.exceptions import ClientError"),
        ("pipeline.landing.tensors", "import torch"),
        ("config", "from runai_model_streamer.origins import SourceKind"),
    ],
)
def test_an_import_that_keeps_the_rules_passes(module: str, line: str) -> None:
    assert violations({"__init__": "", "io": "", "ranges": "", module: line}) == []


def test_no_module_imports_itself_through_others() -> None:
    assert circles(read_package()) == []


def test_a_circle_of_imports_is_found() -> None:
    package = {
        "a": f"from {PACKAGE} import b",
        "b": f"def f():\n    from {PACKAGE}.c import name",
        "c": f"import {PACKAGE}.a",
        "d": f"from {PACKAGE}.a import name",
    }
    assert circles(package) == ["a -> b -> c -> a"]


def test_the_picture_of_the_house_is_that_of_the_code() -> None:
    assert house.PICTURE.read_text(encoding="utf-8") == house.svg(imported_modules()), "python -m docs.pictures.house"


def test_no_room_of_the_picture_covers_another() -> None:
    places = house.places(house.reduced(house.arrows(imported_modules()))).items()
    covered = [
        (name, other)
        for (name, (x, y)), (other, (far_x, far_y)) in itertools.combinations(places, 2)
        if y == far_y and abs(x - far_x) < house.BOX
    ]
    assert covered == []


def test_the_walk_in_contributing_is_true_to_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walk = text.partition("### One tensor's way")[2].partition("\n### ")[0]
    stops = re.findall(r"^\d+\. (.*(?:\n +.*)*)", walk, re.MULTILINE)
    assert 8 <= len(stops) <= 12
    for stop in stops:
        files = re.findall(r"`([\w/]+\.py)`", stop)
        defined = {
            node.name
            for file in files
            for node in ast.walk(ast.parse((ROOT / PACKAGE / file).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        named = set(re.findall(r"`(\w+)`", stop)) - {"Load"}
        assert files, stop
        assert named <= defined, stop


def test_no_folder_has_more_modules_than_one_can_look_over() -> None:
    counts = folders(read_package().keys() - {"__init__"})
    assert {"", "io.s3", "pipeline.plan"} <= counts.keys()
    assert {folder: count for folder, count in counts.items() if count > LARGEST_FOLDER} == {}


def test_every_folder_says_what_is_in_it() -> None:
    inits = [path for path in (ROOT / PACKAGE).rglob("__init__.py") if path.parent != ROOT / PACKAGE]
    documented = {path.parent.name for path in inits if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))}
    assert documented == {path.parent.name for path in inits}
    holding = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}
    assert {path.parent for path in inits} | {ROOT / PACKAGE} == holding


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
    optional = {
        "certifi",
        "huggingface_hub",
        "httpx",
        "httpx2",
        "awscrt",
        "boto3",
        "botocore",
        "s3transfer",
        "cuda",
        "numba",
        "numba_cuda",
    }
    optional |= {"azure", "certifi", "google", "msal", "httpx", "httpx2", "huggingface_hub", "requests"}
    optional |= {"IPython", "PIL", "matplotlib", "rich", "shtab"}
    assert PACKAGE in imported["modules"]
    assert optional.intersection(imported["modules"]) == set()


def test_importing_the_package_starts_no_thread(imported: dict[str, object]) -> None:
    assert imported["threads"] == ["MainThread"]
    assert imported["tasks"] == 0
