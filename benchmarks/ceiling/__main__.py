"""Compare what loaders' own code costs, on a disk of any speed.

    python -m benchmarks.ceiling
    python -m benchmarks.ceiling --checkpoint 70b       # beside it, the start of a load hardly counts
    python -m benchmarks.ceiling --gpu --rounds 3 --disk 1000 --readers 16 --peers none
    python -m benchmarks.ceiling --rounds 3 --disk 50 --disk 1000 --readers 16,64 --peers runai-buffered

A preloaded library (null_disk.c; needs a C compiler) answers large reads without moving a byte, as late as a disk of
so many GB/s would. What is left is what a loader's own code costs: on a real machine the bytes come on top of it, by
DMA or copied by the CPUs. So a figure here is no speed that anyone will see, but a bound: a loader is no faster than
its ceiling on any disk, and what it takes of the CPUs here it takes everywhere.

Loaders take turns, A B C A B C, each load in a process of its own, with PyTorch imported and a tiny file loaded before.
Peers that read by io_uring or map files cannot be compared so, and are not among the loaders. Columns are medians:

With `--gpu` ours also loads onto a GPU that does nothing (null_gpu.py; needs cuda.bindings). There a step, a read of 8
MiB, takes 0.0084 times the CPU s/GB.

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
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import checkpoints, machine, rounds
from benchmarks.ceiling import null_disk, null_gpu
from benchmarks.environments import WORKER, CannotRunError, Environment
from benchmarks.files import peers
from benchmarks.worker_process import LoadError, Worker

LOADERS = ("ours", "runai-buffered", "fastsafetensors-buffered")
SETTABLE = ("ours", "ours-before", null_gpu.NAME, "runai-buffered")
"""Loaders whose readers can be set."""


@dataclass(slots=True)
class Row:
    """One loader on one disk; a sample of each list is one load."""

    disk: float
    readers: int | None
    loader: str
    title: str
    speed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    said: list[null_disk.Said] = field(default_factory=list)
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """What the table says of it."""
        head = (f"{self.disk:g}", "-" if self.readers is None else str(self.readers), self.title)
        if self.failure or not self.speed:
            return (*head, self.failure or "no sample", "", "", "", "")
        held = [each.held for each in self.said if each.held is not None]
        return (
            *head,
            f"{statistics.median(self.speed):.1f}",
            f"{min(self.speed):.1f}-{max(self.speed):.1f}",
            f"{statistics.median(self.cpu):.4f}",
            f"{statistics.median(each.reads for each in self.said):.0f}",
            f"{statistics.median(held):.2f}" if held else "-",
        )


def _load(row: Row, environment: Environment, library: Path, use: str, checkpoint: str) -> None:
    files = checkpoints.make(checkpoint).files
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
    if options.gpu:
        try:
            ready[null_gpu.NAME] = null_gpu.prepare()
        except CannotRunError as reason:
            rounds.say(f"{null_gpu.NAME} cannot run here: {reason}")
    settings = [int(count) for count in options.readers.split(",")]
    disks = options.disk or [10, 25, 50, 100, 200, 1000]
    rows = [
        Row(disk, readers, name, ready[name].peer.title)
        for disk in disks
        for readers in settings
        for name in ready
        if name in SETTABLE
    ]
    rows += [Row(disk, None, name, ready[name].peer.title) for disk in disks for name in ready if name not in SETTABLE]
    for turn in range(options.rounds):
        for row in rows:
            if row.failure:
                continue
            try:
                _load(row, ready[row.loader], library, options.use, options.checkpoint)
            except LoadError as reason:
                row.failure = f"failed: {reason}"
            else:
                rounds.say(
                    f"{turn + 1}/{options.rounds} {row.disk:g} GB/s {row.readers} {row.title}: {row.speed[-1]:.1f}"
                )
    for name, value in machine.describe(checkpoints.cache_folder()):
        print(f"- {name}: {value}")
    print("\n| disk | readers | loader | GB/s | min-max | CPU s/GB | reads | GIL |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: (row.disk, row.readers is None, row.readers)):
        print(f"| {' | '.join(row.cells())} |")


if __name__ == "__main__":
    main()
