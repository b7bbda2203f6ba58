"""`python -m demo`: make a checkpoint, stream it from disk and from S3, compare every tensor, print a table."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from demo.checkpoint import QWEN2_5_0_5B, Checkpoint, Layout, prepare
from runai_model_streamer.profiling import S3Server
from runai_model_streamer.settings.units import size_text

LIMIT: Final = 340_000_000
"""Bytes; a little more than the largest tensor, the embedding of 272 MB, below which no limit can go."""


@dataclass(frozen=True, slots=True)
class Load:
    """One row of the table."""

    title: str
    paths: Sequence[str]
    cold: bool = False
    """Drop the files from the page cache before each run."""
    safetensors: bool = False
    """By safetensors' own loader, to compare with."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What `demo.load` measured."""

    bytes: int
    seconds: float
    peak: int
    """Bytes of resident memory above the process's own before the load: buffers, the tensor in use, and pages of files
    that a loader maps."""
    tensors: int


def main(arguments: Sequence[str] | None = None, layout: Layout = QWEN2_5_0_5B) -> int:
    """Run the demo. Returns the exit status: 0 when every tensor of every load is equal to safetensors' own."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=_default_cache(), help="where the checkpoint is kept: %(default)s"
    )
    cache: Path = parser.parse_args(arguments).cache
    try:
        checkpoint = prepare(layout, cache / layout.title.lower())
    except OSError as error:
        print(f"error: no checkpoint: {error} (XDG_CACHE_HOME chooses another place)", file=sys.stderr)
        return 1
    print(
        f"Checkpoint: {'made' if checkpoint.made else 'found'} in {checkpoint.files[0].parent}: {layout.title}'s "
        f"{checkpoint.tensors} tensors with random weights, {checkpoint.size / 1e9:.2f} GB in {len(checkpoint.files)} "
        f"files",
        flush=True,
    )
    with S3Server(checkpoint.files) as server:
        print(f"S3 server:  {server.endpoint}, serving the same files", flush=True)
        loads = _loads(checkpoint, server)
        results = []
        for number, load in enumerate(loads, 1):
            print(
                f"Row {number} of {len(loads)}: {load.title.strip()}: three times, then every tensor compared",
                flush=True,
            )
            result = _run(load, checkpoint)
            if result is None:
                return 1
            results.append(result)
    print()
    _print_table(loads, results)
    print()
    print(f"All {checkpoint.tensors} tensors equal.")
    return 0


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "runai-model-streamer" / "demo"


def _loads(checkpoint: Checkpoint, server: S3Server) -> list[Load]:
    files = [str(path) for path in checkpoint.files]
    objects = server.urls
    store = server.environment | {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    limit = {"RUNAI_STREAMER_MEMORY_LIMIT": str(LIMIT)}
    suffix = f", limit {size_text(LIMIT)}"
    return [
        Load("disk, not in the page cache", files, cold=True),
        Load("  the same by safetensors.load_file", files, cold=True, safetensors=True),
        Load("disk, in the page cache", files),
        Load("  the same by safetensors.load_file", files, safetensors=True),
        Load("disk, in the page cache" + suffix, files, environment=limit),
        Load("S3 on loopback", objects, environment=store),
        Load("S3 on loopback" + suffix, objects, environment=store | limit),
    ]


def _run(load: Load, checkpoint: Checkpoint) -> Result | None:
    """One load in a process of its own; what went wrong is printed."""
    options = [name for name, chosen in (("--cold", load.cold), ("--safetensors", load.safetensors)) if chosen]
    # The user's own settings for the streamer count (`RUNAI_STREAMER_CONCURRENCY=4 make demo`); those that lead to
    # their own object storage do not.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RUNAI_STREAMER_S3_"))}
    references = [f"--reference={path}" for path in checkpoint.files]
    done = subprocess.run(
        [sys.executable, "-m", "demo.load", *options, *references, *load.paths],
        env={**own, **load.environment},
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(f"{done.stderr}error: this load failed (exit status {done.returncode})", file=sys.stderr)
        return None
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def _print_table(loads: Sequence[Load], results: Sequence[Result]) -> None:
    width = max(len(load.title) for load in loads)
    print(f"{'source':<{width}}  {'GB':>5}  {'seconds':>7}  {'GB/s':>5}  {'peak memory':>11}")
    for load, result in zip(loads, results, strict=True):
        size = result.bytes / 1e9
        print(
            f"{load.title:<{width}}  {size:5.2f}  {result.seconds:7.2f}  {size / result.seconds:5.2f}  "
            f"{size_text(result.peak):>11}"
        )
    print()
    print("Seconds are medians of three, after a first tensor, so that imports and connecting are in none.")
    print("Peak memory came on top of the process: the streamer's buffers and the tensor in use, and with S3 what its")
    print("requests need; of load_file, one file's tensors, which are the pages that it maps, and a copy of one.")
    print("The limit counts the bytes of tensors: the buffers that they lie in may be somewhat larger.")


if __name__ == "__main__":
    sys.exit(main())
