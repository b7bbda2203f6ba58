"""The run itself: install, make checkpoints, alternate, print, write. `local.py` is its command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import caches, checkpoints, claims, limits, machine, measure, peers, results
from benchmarks.scenarios import Scenario, chosen, variant

MIB = 1 << 20


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _environments(wanted: set[str], torch: str) -> tuple[dict[str, peers.Environment], dict[str, str]]:
    """Loaders that run here, and for each of the others why it does not."""
    ready: dict[str, peers.Environment] = {}
    missing: dict[str, str] = {}
    for name in peers.PEERS:
        if name in wanted:
            try:
                ready[name] = peers.prepare(name, torch)
            except peers.CannotRunError as reason:
                missing[name] = str(reason)
                _say(f"{name} cannot run here: {reason}")
    return ready, missing


def _measure(
    scenario: Scenario, rounds: int, ready: dict[str, peers.Environment], shape: limits.Shape, prime: bool
) -> list[results.Row]:
    runnable = {*ready, *limits.NAMES}
    rows = [results.Row(scenario, entry) for entry in scenario.loaders if variant(scenario, entry)[0] in runnable]
    for turn in range(rounds + 1):
        for row in rows:
            if row.failure:
                continue
            loader, changed = variant(scenario, row.entry)
            # The first turn is not counted: in it the bytes of a few tensors are compared with the file.
            check = turn == 0 and loader not in limits.NAMES
            try:
                sample = measure.run(changed, loader, ready.get(loader), shape, check=check, prime=prime)
            except (measure.LoadError, caches.CacheStateError) as reason:
                row.failure = f"failed: {reason}"
                row.samples.clear()
                _say(f"{scenario.name} {row.entry}: {row.failure}")
                continue
            if turn:
                row.samples.append(sample)
                _say(f"{scenario.name} {turn}/{rounds} {row.entry}: {sample.gb_per_s:.2f} GB/s")
    return rows


def _document(
    about: list[tuple[str, str]], measured: results.Results, notes: list[str], command: str, rounds: int
) -> str:
    return "\n".join(
        [
            "# Local reads",
            "",
            f"Written by `{command}`.",
            "",
            f"Medians of {rounds} rounds, every load in a process of its own, a scenario's loaders in alternation.",
            "How each column is measured is in `benchmarks/local.py`.",
            "",
            *(f"- {name}: {value}" for name, value in about),
            *(f"- {note}" for note in notes),
            "",
            "## What was promised",
            "",
            claims.report(claims.evaluate(measured)),
            "",
            "## What was measured",
            "",
            results.table(measured),
            "",
        ]
    )


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/local.py", description="Compare loaders of safetensors files on this machine's disk."
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of every scenario (5)")
    parser.add_argument(
        "--scenario", action="append", help="a scenario, or the beginning of several names; may be repeated"
    )
    parser.add_argument("--peers", help="comma-separated loaders to run beside ours (all; 'none' for ours alone)")
    parser.add_argument("--out", type=Path, help="also write the tables here, for example benchmarks/RESULTS.md")
    parser.add_argument("--torch", default=peers.TORCH, help="the requirement that every environment is made with")
    parser.add_argument("--slab-mib", type=int, default=128, help="the preadv loop's buffer: our live slabs (128)")
    parser.add_argument("--direct-threads", type=int, default=16, help="threads of the raw direct reads (16)")
    parser.add_argument("--chunk-kib", type=int, default=2048, help="bytes a read of the limits (2048)")
    parser.add_argument(
        "--no-prime", action="store_true", help="do not touch free memory before each load (machine.py)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the scenarios that the command line chooses; prints the tables on standard output."""
    options = _arguments(arguments)
    shape = limits.Shape(options.direct_threads, options.chunk_kib * 1024, options.slab_mib * MIB)
    scenarios = chosen(options.scenario)
    if options.peers is None:
        wanted = set(peers.PEERS)
    else:
        wanted = {"ours", *options.peers.split(",")} - {"none"}
        if unknown := wanted - set(peers.PEERS):
            raise SystemExit(f"no loader {', '.join(sorted(unknown))}; there are {', '.join(peers.PEERS)}")
    ready, missing = _environments(wanted, options.torch)
    for name in sorted({scenario.checkpoint for scenario in scenarios}):
        checkpoints.make(name)
    notes = [f"{environment.peer.title}: version {environment.version}" for environment in ready.values()]
    notes += [f"{peers.PEERS[name].title}: not run: {reason}" for name, reason in missing.items()]
    if not caches.can_drop(checkpoints.make("tiny").files[0]):
        scenarios = tuple(scenario for scenario in scenarios if scenario.cache == "warm")
        notes.append("no cold rows: files cannot be evicted from the page cache here (run as root)")
    elif not os.access(caches.DROP_CACHES, os.W_OK):
        notes.append("cold by POSIX_FADV_DONTNEED, verified by mincore: not root, so caches were not dropped")
    notes.append(f"preadv loop round {options.slab_mib} MiB, raw direct reads by {options.direct_threads} threads")
    about = machine.describe(checkpoints.cache_folder())
    command = " ".join(["python benchmarks/local.py", *(arguments if arguments is not None else sys.argv[1:])])
    measured = results.Results()
    text = ""
    for scenario in scenarios:
        for row in _measure(scenario, options.rounds, ready, shape, not options.no_prime):
            measured.add(row)
        text = _document(about, measured, notes, command, options.rounds)
        # After each: the whole run takes most of an hour, and what is measured should outlive what ends it.
        if options.out:
            options.out.write_text(text)
    print(text)
