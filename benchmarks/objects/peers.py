"""What streams from object storage, each in a virtual environment of its own (environments.py makes them)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import TORCH, CannotRunError, Environment, Peer, install

_TRANSPORT = "RUNAI_STREAMER_S3_TRANSPORT"
_PEER = "runai-model-streamer[s3]==0.17.1"

PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours-curl", "ours, curl", "ours-s3", (), ((_TRANSPORT, "curl"),), extra="s3"),
        Peer("ours-boto3", "ours, boto3", "ours-s3", (), ((_TRANSPORT, "boto3"),), extra="s3"),
        Peer("runai", "runai-model-streamer 0.17.1", "runai-s3", ("numpy", _PEER)),
        # No loader, but ranges into memory that is thrown away at once: what a loader built on it could reach.
        Peer("obstore", "*obstore 0.12: ranges alone*", "obstore", ("obstore==0.12.0",), needs_torch=False),
        Peer("curl", "*the curl program, all in one process*", "", ()),
        Peer("curl-each", "*the curl program, a process for each connection*", "", ()),
        Peer("idle", "*a process that does nothing*", "", ()),
    )
}

_DISTRIBUTIONS = {"runai": "runai-model-streamer-s3", "obstore": "obstore"}


def prepare(name: str, torch: str = TORCH) -> Environment:
    """The loader's environment, installed if it is not there; CannotRunError where that cannot be."""
    peer = PEERS[name]
    here = Path(sys.executable)
    if name == "idle":
        return Environment(peer, here, "")
    if name.startswith("curl"):
        program = shutil.which("curl")
        if program is None:
            raise CannotRunError("there is no curl program: apt install curl")
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        return Environment(peer, here, said.partition(" (")[0])
    if peer.is_ours:
        modules = "import boto3, numba, numpy, orjson, torch"
        serves = subprocess.run([here, "-c", modules], capture_output=True, check=False).returncode == 0
        return Environment(peer, here if serves else install(peer, torch), "this checkout")
    python = install(peer, torch)
    said = subprocess.run(
        [python, "-c", f"import importlib.metadata as m; print(m.version({_DISTRIBUTIONS[name]!r}))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return Environment(peer, python, said.strip())
