"""Compare what loaders' own code costs, on a disk of any speed.

    python -m benchmarks.ceiling
    python -m benchmarks.ceiling --checkpoint 70b       # beside it, the start of a load hardly counts
    python -m benchmarks.ceiling --gpu --rounds 3 --disk 1000 --readers 16 --peers none
    python -m benchmarks.ceiling --rounds 3 --disk 50 --disk 1000 --readers 16,64 --peers runai-buffered
    python -m benchmarks.ceiling --shows --rounds 3     # three tables, and what was wanted of them

A preloaded library (null_disk.c; needs a C compiler) answers large reads without moving a byte, as late as a disk of
so many GB/s would. What is left is what a loader's own code costs: on a real machine the bytes come on top of it, by
DMA or copied by the CPUs. So a figure here is no speed that anyone will see, but a bound: a loader is no faster than
its ceiling on any disk, and what it takes of the CPUs here it takes everywhere.

Loaders take turns, A B C A B C, each load in a process of its own, with PyTorch imported and a tiny file loaded before.
Peers that read by io_uring or map files cannot be compared so, and are not among the loaders. Columns are medians:

With `--gpu` ours also loads onto a GPU that does nothing (null_gpu.py; needs cuda.bindings). There 8 MiB take 0.0084
times the CPU s/GB.

- disk: GB/s of all reads together; each takes 80 microseconds more.
- readers: RUNAI_STREAMER_CONCURRENCY; "-" where the loader has no such setting.
- GB/s, CPU s/GB: as in `python -m benchmarks.files`.
- reads: of 128 KiB and more.
- GIL: share of the time between first and last read that any thread held it; sampled every 200 microseconds, by CPython
  3.11 only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import checkpoints, claims, machine, rounds
from benchmarks.ceiling import null_disk, null_gpu, shows
from benchmarks.ceiling.rows import Row, Table
from benchmarks.environments import WORKER, CannotRunError, Environment
from benchmarks.files import peers
from benchmarks.worker_process import LoadError, Worker

LOADERS = ("ours", "runai-buffered", "fastsafetensors-buffered")
SETTABLE = ("ours", "ours-before", null_gpu.NAME, "runai-buffered")
"""Loaders whose readers can be set."""

DISKS = (10, 25, 50, 100, 200, 1000)


def _load(row: Row, environment: Environment, library: Path, use: str) -> None:
    files = checkpoints.make(row.checkpoint).files
    job = {
        "loader": row.loader,
        "files": [str(path) for path in files],
        "tiny": str(checkpoints.make("tiny").files[0]),
        "use": use,
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        variables = environment.variables() | null_disk.variables(
            library, row.disk, report, header=null_disk.header_bytes(files)
        )
        if row.readers is not None:
            variables["RUNAI_STREAMER_CONCURRENCY"] = str(row.readers)
        worker = Worker([environment.python, WORKER, json.dumps(job)], variables)
        try:
            worker.answer()
            worker.go()
            answer = worker.answer()
        finally:
            worker.close()
        size = sum(path.stat().st_size for path in files)
        row.speed.append(size / answer["seconds"] / 1e9)
        row.cpu.append(answer["cpu_s"] / size * 1e9)
        row.said.append(null_disk.said(report))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ceiling", description="What loaders' own code costs.")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument("--disk", type=float, action="append", help="GB/s of a disk (10, 25, 50, 100, 200, 1000)")
    parser.add_argument("--readers", default="1,4,16,64", help="numbers of readers (1,4,16,64)")
    parser.add_argument("--peers", help="comma-separated loaders beside ours (all; 'none' for ours alone)")
    parser.add_argument("--use", choices=("dropped", "copied", "kept"), default="dropped", help="of tensors (dropped)")
    parser.add_argument("--checkpoint", default="large", help="large (4 GB), 70b (138 GB) or many (50,000 small)")
    parser.add_argument("--gpu", action="store_true", help="also ours onto a GPU that does nothing")
    parser.add_argument(
        "--shows", action="store_true", help="the tables of three checkpoints with --gpu, and what was wanted of them"
    )
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout of ours, in turns with it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line chooses; prints a table."""
    options = _arguments(arguments)
    library = null_disk.build()
    names = LOADERS if options.peers is None else ("ours", *(set(options.peers.split(",")) - {"none"}))
    if options.before:
        from benchmarks.environments import add_before

        names = (*names, add_before(peers.PEERS, "ours", options.before))
    ready: dict[str, Environment] = {}
    for name in names:
        try:
            ready[name] = peers.prepare(name)
        except CannotRunError as reason:
            rounds.say(f"{name} cannot run here: {reason}")
    if options.gpu or options.shows:
        try:
            ready[null_gpu.NAME] = null_gpu.prepare()
        except CannotRunError as reason:
            rounds.say(f"{null_gpu.NAME} cannot run here: {reason}")
    tables = [Table(options.checkpoint, options.disk or DISKS, [int(count) for count in options.readers.split(",")])]
    if options.shows:
        tables = list(shows.TABLES)
    rows = [row for table in tables for row in _rows(table, ready)]
    for turn in range(options.rounds):
        for row in rows:
            if row.failure:
                continue
            try:
                _load(row, ready[row.loader], library, options.use)
            except LoadError as reason:
                row.failure = f"failed: {reason}"
            else:
                rounds.say(
                    f"{turn + 1}/{options.rounds} {row.checkpoint} {row.disk:g} GB/s {row.readers} {row.title}: "
                    f"{row.speed[-1]:.1f}"
                )
    for name, value in machine.describe(checkpoints.cache_folder()):
        print(f"- {name}: {value}")
    for table in tables:
        print(f"\n{table.checkpoint}:\n\n| disk | readers | loader | GB/s | min-max | CPU s/GB | reads | GIL |")
        print("|---:|---:|---|---:|---:|---:|---:|---:|")
        found = [row for row in rows if row.checkpoint == table.checkpoint]
        for row in sorted(found, key=lambda row: (row.disk, row.readers is None, row.readers)):
            print(f"| {' | '.join(row.cells())} |")
    if options.shows:
        print(f"\n{claims.report(list(shows.claims_of(rows)))}")


def _rows(table: Table, ready: Mapping[str, Environment]) -> list[Row]:
    rows = [
        Row(table.checkpoint, disk, readers, name, ready[name].peer.title)
        for disk in table.disks
        for readers in table.readers
        for name in ready
        if name in SETTABLE
    ]
    rest = [name for name in ready if name not in SETTABLE]
    return rows + [
        Row(table.checkpoint, disk, None, name, ready[name].peer.title) for disk in table.disks for name in rest
    ]


if __name__ == "__main__":
    main()
