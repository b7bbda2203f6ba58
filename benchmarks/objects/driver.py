"""The run itself: install, serve, alternate, print, write. `python -m benchmarks.objects` is its command."""

from __future__ import annotations

import argparse
import base64
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import machine, rounds
from benchmarks.claims import report
from benchmarks.environments import Environment, add_before
from benchmarks.objects import claims, loss, measure, peers, results, server
from benchmarks.objects.scenarios import LOSSY, Scenario, chosen, lossy, variant


def _measure(
    scenario: Scenario,
    count: int,
    ready: dict[str, Environment],
    endpoints: server.Endpoints,
    objects: measure.Objects,
) -> list[results.Row]:
    def load(row: results.Row, check: bool) -> measure.Sample:
        loader, changed = variant(scenario, row.entry)
        return measure.run(changed, loader, ready, endpoints, objects, check=check)

    entries = [entry for entry in scenario.loaders if variant(scenario, entry)[0] in ready]
    rows = [results.Row(scenario, entry, results.title(entry)) for entry in entries]
    rounds.alternate(rows, count, load)
    return rows


def _checksums(objects: measure.Objects, scenarios: tuple[Scenario, ...]) -> dict[str, str]:
    """CRC64NVME of each object by its key, where some scenario has it looked at."""
    if not any(variant(scenario, entry)[1].verify for scenario in scenarios for entry in scenario.loaders):
        return {}
    from awscrt.checksums import crc64nvme

    sums = {}
    for path in (*objects.files, objects.tiny):
        value = 0
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                value = crc64nvme(block, value)
        sums[objects.key(path)] = base64.b64encode(value.to_bytes(8, "big")).decode()
    return sums


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = rounds.parser("benchmarks.objects", "Compare loaders of safetensors objects, served by nginx on loopback.")
    parser.add_argument("--scenario", action="append", help="a scenario; may be repeated (all)")
    parser.add_argument("--peers", help="comma-separated loaders to run (all)")
    parser.add_argument("--shards", type=int, default=2, choices=(1, 2), help="of the checkpoint: 3.9 GB, or 2 GB (2)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the scenarios that the command line chooses; prints the tables on standard output."""
    # Ended by `kill`, the run ends its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _arguments(arguments)
    scenarios = chosen(options.scenario)
    names = set(options.peers.split(",") if options.peers else peers.PEERS)
    if options.before:
        before = add_before(peers.PEERS, "ours-curl", options.before)
        names |= {before}
        scenarios = tuple(replace(each, loaders=rounds.beside(each.loaders, "ours-curl", before)) for each in scenarios)
    wanted = rounds.wanted(names, peers.PEERS)
    # The heartbeat of a process that does nothing is what the others are compared with.
    ready, missing = rounds.environments(wanted | {"idle"}, peers.PEERS, peers.prepare, options.torch)
    objects = measure.make_objects(options.shards)
    about = machine.describe(objects.folder)
    about += [("server", f"{server.version()} on loopback, sharing the cores")]
    about += [("objects", f"{len(objects.files)}, {objects.nbytes / 1e9:.2f} GB")]
    about += [(each.peer.title, each.version) for each in ready.values() if each.version]
    about += [(peers.PEERS[name].title, f"not run: {reason}") for name, reason in missing.items()]
    facts = [f"{name}: {value}" for name, value in about]
    measured = results.Results()

    def document() -> str:
        promised = report(claims.evaluate(measured, objects))
        table = results.table(measured)
        return rounds.document(
            "Reads from object storage", "benchmarks.objects", arguments, options.rounds, facts, promised, table
        )

    checksums = _checksums(objects, scenarios)
    if lossy(scenarios):
        loss.enter()
    with server.nginx(objects.folder, checksums) as endpoints:
        if lossy(scenarios):
            loss.drop([endpoints.ports[name] for name in LOSSY])

        def blocks() -> Iterator[list[results.Row]]:
            for scenario in scenarios:
                yield _measure(scenario, options.rounds, ready, endpoints, objects)

        rounds.publish(blocks(), measured, document, options.out)
