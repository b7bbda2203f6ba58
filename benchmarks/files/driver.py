"""The run itself: install, make checkpoints, alternate, print, write. `python -m benchmarks.files` is its command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import caches, checkpoints, machine, rounds
from benchmarks.claims import report
from benchmarks.environments import Environment, add_before
from benchmarks.files import claims, limits, measure, peers, results
from benchmarks.files.scenarios import Scenario, chosen, variant

MIB = 1 << 20


def _measure(
    scenario: Scenario, count: int, ready: dict[str, Environment], shape: limits.Shape, prime: bool
) -> list[results.Row]:
    runnable = {*ready, *limits.NAMES}

    def load(row: results.Row, check: bool) -> measure.Sample:
        loader, changed = variant(scenario, row.entry)
        check = check and loader not in limits.NAMES
        return measure.run(changed, loader, ready.get(loader), shape, check=check, prime=prime)

    entries = [entry for entry in scenario.loaders if variant(scenario, entry)[0] in runnable]
    rows = [results.Row(scenario, entry, results.title(scenario, entry)) for entry in entries]
    rounds.alternate(rows, count, load)
    return rows


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = rounds.parser("benchmarks.files", "Compare loaders of safetensors files on this machine's disk.")
    parser.add_argument(
        "--scenario", action="append", help="a scenario, or the beginning of several names; may be repeated"
    )
    parser.add_argument("--peers", help="comma-separated loaders to run beside ours (all; 'none' for ours alone)")
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
    names = {"ours", *options.peers.split(",")} - {"none"} if options.peers else set(peers.PEERS)
    if options.before:
        before = add_before(peers.PEERS, "ours", options.before)
        names |= {before}
        scenarios = tuple(replace(each, loaders=rounds.beside(each.loaders, "ours", before)) for each in scenarios)
    wanted = rounds.wanted(names, peers.PEERS)
    ready, missing = rounds.environments(wanted, peers.PEERS, peers.prepare, options.torch)
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
    facts = [f"{name}: {value}" for name, value in machine.describe(checkpoints.cache_folder())] + notes
    measured = results.Results()

    def blocks() -> Iterator[list[results.Row]]:
        for scenario in scenarios:
            yield _measure(scenario, options.rounds, ready, shape, not options.no_prime)

    def document() -> str:
        promised = report(claims.evaluate(measured))
        table = results.table(measured)
        return rounds.document("Local reads", "benchmarks.files", arguments, options.rounds, facts, promised, table)

    rounds.publish(blocks(), measured, document, options.out)
