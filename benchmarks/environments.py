"""Each loader's own virtual environment under the cache folder: ours and runai-model-streamer share an import name.

An environment is made once and used again. PyTorch comes first and in one fixed version, so that every loader has
the same and none pulls in another build. On a machine whose package index serves a CUDA build under that name, point
pip at CPU builds (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) or give `--torch` another requirement. Needs the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import checkpoints

REPOSITORY = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().parent / "worker.py"
TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Peer:
    """A loader: `environment` names its virtual environment, `variables` are set for its process."""

    name: str
    title: str
    environment: str
    requirements: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    """Of our own optional dependencies."""
    needs_torch: bool = True
    checkout: Path = REPOSITORY
    """Of ours: where the code is."""

    @property
    def is_ours(self) -> bool:
        return self.name.partition("-")[0] == "ours"


@dataclass(frozen=True, slots=True)
class Environment:
    """A loader that can be started: its interpreter, what it adds to the environment, the version it reported."""

    peer: Peer
    python: Path
    version: str

    def variables(self) -> dict[str, str]:
        """The process environment: this shell's, without any setting of a streamer's, and the loader's own."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RUNAI_", "FASTSAFETENSORS_", "PYTHON", "LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        }
        if self.peer.is_ours:
            kept["PYTHONPATH"] = str(self.peer.checkout)
        return {**kept, **dict(self.peer.variables)}


def add_before(known: dict[str, Peer], ours: str, checkout: Path) -> str:
    """Add another checkout of this project to the loaders, and return its name: `ours` with `-before`."""
    name = f"{ours}-before"
    known[name] = replace(known[ours], name=name, title=f"{known[ours].title}, before", checkout=checkout.resolve())
    return name


class CannotRunError(Exception):
    """This loader does not run on this machine; the message says why, in the loader's own words where it has any."""


def _requirements(peer: Peer) -> list[str]:
    if not peer.is_ours:
        return list(peer.requirements)
    # Only what it depends on: the code that runs is the checkout's, by PYTHONPATH.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"][peer.extra] if peer.extra else []
    return [str(requirement) for requirement in (*project["dependencies"], *extra)]


def install(peer: Peer, torch: str) -> Path:
    """The interpreter of the loader's environment, made now unless it is there; CannotRunError where pip fails."""
    folder = checkpoints.cache_folder() / "venvs" / peer.environment
    python = folder / "bin" / "python"
    requirements = [*([torch] if peer.needs_torch else []), *_requirements(peer)]
    wanted = json.dumps(requirements)
    marker = folder / "installed.json"
    if marker.exists() and marker.read_text() == wanted:
        return python
    print(f"installing {peer.environment}: {' '.join(requirements)}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotRunError(f"not installed: {last_line(done.stderr)}")
    marker.write_text(wanted)
    return python


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
