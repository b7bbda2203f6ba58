"""Casting while streaming against streaming and then casting: the warm 4 GB BF16 checkpoint as float32, on the host.

    python -m benchmarks.cast            # from the repository's root; some minutes, alone on the machine

Each load is a fresh process that has imported what it needs, compiled its kernels and loaded a small checkpoint;
times are from `stream_files` to the last tensor. `keep` holds every tensor, as a model does; `drop` none. Ways
alternate, the order turns from run to run; medians, and the ratio of each run's pair.

- `while`: `stream_files(..., dtype=torch.float32)`.
- `then`: `stream_files(...)`, and `tensor.to(torch.float32)` of each as it comes, on torch's threads.
- `read`: the file's own dtype, for scale.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import caches, checkpoints, machine

WAYS = ("while", "then", "read")


def load(paths: list[str], way: str, target: str, keep: bool) -> int:
    """Bytes of the tensors as they came out."""
    import torch

    from runai_model_streamer import SafetensorsStreamer

    dtype: torch.dtype = getattr(torch, target)
    kept = []
    size = 0
    with SafetensorsStreamer() as streamer:
        if way == "while":
            streamer.stream_files(paths, dtype=dtype)
        else:
            streamer.stream_files(paths)
        for _, tensor in streamer.get_tensors():
            made = tensor.to(dtype) if way == "then" else tensor
            size += made.nbytes
            if keep:
                kept.append(made)
    return size


def work(way: str, target: str, keep: bool) -> None:
    small = [str(path) for path in checkpoints.make("large").files[1:]]
    large = [str(path) for path in checkpoints.make("large").files]
    # The kernels and torch's threads are there afterwards, and pages that were never used are not.
    load(small, way, target, False)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    size = load(large, way, target, keep)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "size": size, "peak_mib": after.ru_maxrss / 1024}))


def measure(way: str, target: str, keep: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cast", "--way", way, "--target", target, *(["--keep"] if keep else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(target: str, keep: bool, runs: int) -> None:
    files = checkpoints.make("large").files
    size = sum(Path(path).stat().st_size for path in files)
    caches.warm(files)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for run in range(runs):
        for way in WAYS[run % 3 :] + WAYS[: run % 3]:
            # Memory that the host has taken back from this virtual machine would cost whoever comes first.
            machine.prime_memory(3 * size)
            found[way].append(measure(way, target, keep))
    print(f"\n{size / 1e9:.1f} GB of BF16 as {target}, {'kept' if keep else 'dropped'}, {runs} runs each")
    for way, results in found.items():
        seconds = [result["seconds"] for result in results]
        print(
            f"  {way:6} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            f"  {statistics.median(result['cpu'] for result in results) / size * 1e9:6.2f} CPU s per GB of the file"
            f"  {results[0]['size'] / statistics.median(seconds) / 1e9:6.2f} GB/s made"
            f"  peak {statistics.median(result['peak_mib'] for result in results):6.0f} MiB"
        )
    ratios = [then["seconds"] / cast["seconds"] for cast, then in zip(found["while"], found["then"], strict=True)]
    print(f"  while is {statistics.median(ratios):.2f} times as fast as then ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--target", default="float32", choices=["float32", "float16"])
    parser.add_argument("--keep", action="store_true", help="only this, not both")
    parser.add_argument("--drop", action="store_true", help="only this, not both")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        work(arguments.way, arguments.target, arguments.keep)
        return
    for keep in (True, False):
        if arguments.keep == arguments.drop or keep == arguments.keep:
            compare(arguments.target, keep, arguments.runs)


if __name__ == "__main__":
    main()
