"""The node's cache against local files, and loads that fill it against loads without it.

    python -m benchmarks.cache --rounds 3            # under 4 minutes; alone on the machine

Needs nginx and openssl (apt install nginx openssl), and 12 GB of disk. nginx serves the 4 GB checkpoint of
`benchmarks.files` on loopback: `fast` as fast as it can, `90` with 90 MB/s for each connection, as a store does. Each
load is a process of its own, which drops tensors as they come. In each round, in turns:

- local: the files themselves, past the page cache, which is empty;
- without: from the server, without a cache. The server's files are in the page cache;
- first: the same, into an empty cache;
- second: from that cache; the page cache is empty. What the first load left out comes from the server, and is added;
- full: the same, once all is in the cache. It is the second load, if the first has left nothing out.

GB/s: 1e9 bytes of files a second, from the call to the last tensor. Its end is not in it: `close` is how long a load
took to end. `left out`: bytes that there was no time to write, or no CPU, so that the next load fetched them.
`--verified` has loads from the cache compare all bytes, as after a boot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import caches, checkpoints, machine
from benchmarks.claims import Claim, least, named, report, spread
from benchmarks.objects.server import BUCKET, Endpoints, nginx
from benchmarks.tables import aligned, number

PORTS = {"fast": "http", "90": "slow90"}

LOADS = ("local", "without", "first", "second", "full")

SIZE = "20GB"
"""Of the cache."""

FILLS = 12
"""Loads after the first, at most, until all is in the cache."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load."""

    nbytes: int
    seconds: float
    close_s: float
    cpu_s: float
    cache: dict[str, int] | None

    @property
    def gb_per_s(self) -> float:
        return self.nbytes / self.seconds / 1e9

    @property
    def whole(self) -> bool:
        """Whether all of it came from the cache."""
        return self.cache is not None and self.cache["bytes_read"] >= self.nbytes


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Stream the files in this process, after a tiny load that makes lazy imports happen."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(job["warm_up"])
        for _ in streamer.get_tensors():
            pass
    if job["cache"]:
        # Not what leaves a tenth of the file system free: that may be less than the checkpoint.
        os.environ.update({"RUNAI_STREAMER_CACHE_DIR": job["cache"], "RUNAI_STREAMER_CACHE_SIZE": SIZE})
    before, began = os.times(), time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(job["files"])
        tensors = streamer.get_tensors()
        for _ in range(sum(map(len, streamer.files_to_tensors_metadata.values()))):
            next(tensors)
        seconds = time.perf_counter() - began
        for _ in tensors:
            pass
    closed, after = time.perf_counter() - began - seconds, os.times()
    found = streamer.report.as_dict()
    return {
        "nbytes": streamer.report.bytes,
        "seconds": seconds,
        "close_s": closed,
        "cpu_s": after.user - before.user + after.system - before.system,
        "cache": found["cache"],
    }


def run(files: Sequence[str], warm_up: str, cache: Path | None) -> Sample:
    job = {"files": list(files), "warm_up": [warm_up], "cache": None if cache is None else str(cache)}
    command = [sys.executable, "-m", "benchmarks.cache", "--load", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Sample(**json.loads(done.stdout))


def cached(urls: Sequence[str], warm_up: str, folder: Path, verified: bool) -> Sample:
    """Load from the cache, while the page cache is empty."""
    kept = tuple(folder.rglob("*.data"))
    os.sync()
    if verified:
        for path in kept:
            os.utime(path)
    caches.drop(kept)
    return run(urls, warm_up, folder)


def measure(endpoints: Endpoints, server: str, rounds: int, folder: Path, verified: bool) -> dict[str, list[Sample]]:
    files = checkpoints.make("large").files
    base, tiny = files[0].parent.parent, checkpoints.make("tiny").files[0]
    address = f"{endpoints.url(PORTS[server])}/{BUCKET}"
    urls, small = ([f"{address}/{path.relative_to(base)}" for path in each] for each in (files, [tiny]))
    found: dict[str, list[Sample]] = {name: [] for name in LOADS}
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        caches.drop(files)
        found["local"].append(run([str(path) for path in files], str(tiny), None))
        caches.warm(files)
        for name in ("without", "first"):
            found[name].append(run(urls, small[0], folder if name == "first" else None))
        again = [cached(urls, small[0], folder, verified)]
        while not again[-1].whole and len(again) < FILLS:
            again.append(cached(urls, small[0], folder, verified))
        found["second"].append(again[0])
        found["full"].append(again[-1])
    return found


def table(results: dict[str, dict[str, list[Sample]]]) -> str:
    rows: list[tuple[str, ...]] = [("server", "load", "GB/s", "CPU s/GB", "close, ms", "from the cache", "left out")]
    for server, loads in results.items():
        for name, samples in loads.items():
            cached = [each.cache for each in samples if each.cache is not None]
            share = statistics.median(each["bytes_read"] for each in cached) / samples[0].nbytes if cached else None
            left = statistics.median(each["bytes_left_out"] for each in cached) / samples[0].nbytes if cached else None
            rows.append(
                (
                    server,
                    name,
                    number(statistics.median(each.gb_per_s for each in samples), 2),
                    number(statistics.median(each.cpu_s / each.nbytes * 1e9 for each in samples), 3),
                    number(statistics.median(each.close_s for each in samples) * 1e3, 0),
                    number(share, 3),
                    number(left, 3),
                )
            )
    return aligned(rows, left=2)


def _ratios(loads: dict[str, list[Sample]], one: str, other: str) -> list[float]:
    return [a.gb_per_s / b.gb_per_s for a, b in zip(loads[one], loads[other], strict=True)]


def evaluate(results: dict[str, dict[str, list[Sample]]]) -> list[Claim]:
    claims: list[Claim] = []
    for server, loads in results.items():
        for one, other in (("second", "local"), ("full", "local"), ("first", "without"), ("second", "without")):
            ratios = _ratios(loads, one, other)
            name = f"{server}: {one} / {other}"
            if other == "local" and not all(each.whole for each in loads[one]):  # a part of it came from the server
                claims.append(named(len(claims) + 1, f"{name} (not all was in the cache)", statistics.median(ratios)))
            else:
                claims.append(least(len(claims) + 1, name, statistics.median(ratios), 0.95, spread(ratios)))
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=tuple(PORTS), action="append", help="default: both")
    parser.add_argument("--folder", type=Path, help="for the cache; default: beside the checkpoints")
    parser.add_argument("--verified", action="store_true", help="second loads compare all bytes")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load(json.loads(given.load))))
        return
    files = checkpoints.make("large").files
    base = given.folder or checkpoints.cache_folder()
    for name, value in machine.describe(base):
        print(f"{name}: {value}")
    with (
        tempfile.TemporaryDirectory(prefix="cache-", dir=base) as folder,
        nginx(files[0].parent.parent, {}) as endpoints,
    ):
        results = {
            server: measure(endpoints, server, given.rounds, Path(folder) / "node", given.verified)
            for server in given.server or PORTS
        }
    print(f"\n{table(results)}\n\n{report(evaluate(results))}")


if __name__ == "__main__":
    main()
