"""Each loader's own virtual environment under the cache folder: ours and runai-model-streamer share an import name.

    python -m benchmarks.peers                # from the repository's root: make them all now, say which can run here

An environment is made once and used again. PyTorch comes first and in one fixed version, so that every loader has
the same and none pulls in another build; on a machine whose package index serves a CUDA build under that name, point
pip at CPU builds (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) or give `--torch` another requirement. Needs the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
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

    @property
    def is_ours(self) -> bool:
        return self.name.partition("-")[0] == "ours"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", "ours", "ours", ()),
        Peer("runai", "runai-model-streamer 0.17.0", "runai", ("numpy", "runai-model-streamer==0.17.0")),
        # Its default reads directly even what is cached (io_uring, where the kernel has it); its own setting for
        # buffered reads shows what it does with the page cache.
        Peer(
            "runai-buffered",
            "runai-model-streamer, sync_buffered",
            "runai",
            ("numpy", "runai-model-streamer==0.17.0"),
            (("RUNAI_STREAMER_FS_STRATEGY", "sync_buffered"),),
        ),
        Peer("fastsafetensors", "fastsafetensors", "fastsafetensors", ("numpy", "fastsafetensors")),
        # The same of this one, by its documented switch.
        Peer(
            "fastsafetensors-buffered",
            "fastsafetensors, O_DIRECT off",
            "fastsafetensors",
            ("numpy", "fastsafetensors"),
            (("FASTSAFETENSORS_ODIRECT", "0"),),
        ),
        Peer("safetensors", "safetensors (mapped)", "safetensors", ("numpy", "safetensors")),
        Peer("instanttensor", "instanttensor", "instanttensor", ("numpy", "instanttensor")),
    )
}


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
            kept["PYTHONPATH"] = str(REPOSITORY)
        return {**kept, **dict(self.peer.variables)}


class CannotRunError(Exception):
    """This loader does not run on this machine; the message says why, in the loader's own words where it has any."""


def prepare(name: str, torch: str = TORCH) -> Environment:
    """The loader's environment, installed if it is not there; CannotRunError where its worker cannot load a file."""
    peer = PEERS[name]
    here = Environment(peer, Path(sys.executable), "")
    if name == "ours" and _runs(here):
        return Environment(peer, here.python, _probe(here))
    environment = Environment(peer, install(peer, torch), "")
    return Environment(peer, environment.python, _probe(environment))


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
        raise CannotRunError(f"not installed: {_last_line(done.stderr)}")
    marker.write_text(wanted)
    return python


def _runs(environment: Environment) -> bool:
    try:
        _probe(environment)
    except CannotRunError:
        return False
    return True


def _probe(environment: Environment) -> str:
    """Load the tiny checkpoint and compare it with the file; the loader's version."""
    tiny = str(checkpoints.make("tiny").files[0])
    job = {"loader": environment.peer.name, "files": [tiny], "tiny": tiny, "use": "kept", "check": True}
    done = subprocess.run(
        [environment.python, WORKER, json.dumps(job)],
        input="go\n",
        env=environment.variables(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise CannotRunError(_last_line(done.stderr))
    return str(json.loads(done.stdout.splitlines()[0])["version"])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


if __name__ == "__main__":
    for loader in PEERS:
        try:
            found = prepare(loader)
            print(f"{loader}: {found.version} ({found.python})")
        except CannotRunError as reason:
            print(f"{loader}: {reason}")
