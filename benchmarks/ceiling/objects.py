"""Count what a range of an object costs our own code: CPU time and Python calls, with a store that answers at once.

    python -m benchmarks.ceiling.objects
    python -m benchmarks.ceiling.objects --readers 1,16,256 --ranges 8000

A libcurl of the benchmark's own (null_store.c; needs a C compiler) answers without moving a byte. All other code is
that of a load from S3: tensors of 8 MiB, each one range, dropped as they come, onto the host. Nearly all of it holds
the GIL, so that its reciprocal bounds the ranges that a process reads each second, over all of its connections.

What each load costs besides is left out: a load of few ranges is compared with one of three times as many. Each is the
median of several, in a process of its own. Columns:

- readers: RUNAI_STREAMER_CONNECTIONS.
- CPU us, user us: microseconds of CPU time for each range, all threads of the process; and the part of it in user mode.
- ranges/s: for each second of the load.
- calls: Python functions, those of C included, for each range; counted in a load of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ceiling.null_disk import build

SOURCE = Path(__file__).with_name("null_store.c")
RANGE = 8 << 20
FIRST = 256 << 10
"""Bytes at the beginning of the object that are real."""

LOADS = 5


def _variables(folder: Path, ranges: int, readers: int) -> dict[str, str]:
    """Make the store in this folder. Return what the environment of a process that reads from it has in addition."""
    header: dict[str, Any] = {
        f"tensor{number:06}": {
            "dtype": "U8",
            "shape": [RANGE],
            "data_offsets": [number * RANGE, (number + 1) * RANGE],
        }
        for number in range(ranges)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    (folder / "head").write_bytes(head + bytes(max(FIRST - len(head), 0)))
    (folder / "libcurl.so.4").symlink_to(build(source=SOURCE))
    return {
        "LD_LIBRARY_PATH": str(folder),
        "NULLSTORE_HEAD": str(folder / "head"),
        "NULLSTORE_SIZE": str(len(head) + ranges * RANGE),
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_TRANSPORT": "curl",
        "RUNAI_STREAMER_CONNECTIONS": str(readers),
        "RUNAI_STREAMER_CHUNK_BYTESIZE": str(RANGE),
    }


def _load() -> tuple[float, float, float]:
    """Load once. Return seconds: by the clock, of CPU time, and of that in user mode."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        streamer.stream_file("s3://bucket/model")
        for _ in streamer.get_tensors():
            pass
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    user = after.ru_utime - before.ru_utime
    return seconds, user + after.ru_stime - before.ru_stime, user


def _calls() -> int:
    """Load once. Return the number of calls."""
    counts: dict[int, int] = {}

    def see(_: Any, event: str, __: Any) -> None:
        if event in ("call", "c_call"):
            thread = threading.get_ident()
            counts[thread] = counts.get(thread, 0) + 1

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        _load()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sum(counts.values())


def _work() -> None:
    """Do the work of one process, and print what was found."""
    _load()
    loads = [_load() for _ in range(LOADS)]
    print(json.dumps([*(statistics.median(values) for values in zip(*loads, strict=True)), _calls()]))


def measure(ranges: int, readers: int) -> list[float]:
    """Return seconds, CPU seconds, user seconds and calls of a load of so many ranges."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | _variables(Path(folder), ranges, readers)
        command = [sys.executable, "-m", "benchmarks.ceiling.objects", "--worker"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line chooses; prints a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.ceiling.objects", description="What a range costs.")
    parser.add_argument("--readers", default="1,16,64,256", help="numbers of connections (1,16,64,256)")
    parser.add_argument("--ranges", type=int, default=1500, help="of the smaller load, 8 MiB each (1500)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        _work()
        return
    print("| readers | CPU us | user us | ranges/s | calls |\n|---:|---:|---:|---:|---:|")
    for readers in map(int, options.readers.split(",")):
        few, many = (measure(ranges, readers) for ranges in (options.ranges, 3 * options.ranges))
        each = [(more - less) / (2 * options.ranges) for less, more in zip(few, many, strict=True)]
        seconds, cpu, user, calls = each
        print(f"| {readers} | {cpu * 1e6:.0f} | {user * 1e6:.0f} | {1 / seconds:.0f} | {calls:.0f} |", flush=True)


if __name__ == "__main__":
    main()
