"""Loaders of local files, each in an environment of its own.

python -m benchmarks.files.peers          # from the repository's root: make them all now, say which can run here
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.environments import TORCH, WORKER, CannotRunError, Environment, Peer, install, last_line

PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", "ours", "ours", ()),
        Peer("runai", "runai-model-streamer 0.17.1", "runai", ("numpy", "runai-model-streamer==0.17.1")),
        # Its default reads directly even what is cached (io_uring, where the kernel has it); its own setting for
        # buffered reads shows what it does with the page cache.
        Peer(
            "runai-buffered",
            "runai-model-streamer, sync_buffered",
            "runai",
            ("numpy", "runai-model-streamer==0.17.1"),
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


def prepare(name: str, torch: str = TORCH) -> Environment:
    """The loader's environment, installed if it is not there; CannotRunError where its worker cannot load a file."""
    peer = PEERS[name]
    here = Environment(peer, Path(sys.executable), "")
    if peer.is_ours and _runs(here):
        return Environment(peer, here.python, _probe(here))
    environment = Environment(peer, install(peer, torch), "")
    return Environment(peer, environment.python, _probe(environment))


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
        raise CannotRunError(last_line(done.stderr))
    return str(json.loads(done.stdout.splitlines()[0])["version"])


if __name__ == "__main__":
    for loader in PEERS:
        try:
            found = prepare(loader)
            print(f"{loader}: {found.version} ({found.python})")
        except CannotRunError as reason:
            print(f"{loader}: {reason}")
