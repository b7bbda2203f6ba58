"""The run itself: install, serve, alternate, print, write. `s3.py` is its command."""

from __future__ import annotations

import argparse
import base64
import signal
import sys
from collections.abc import Iterator

from benchmarks import claims, machine, peers, rounds, s3_claims, s3_measure, s3_peers, s3_results, s3_server
from benchmarks.s3_scenarios import Scenario, chosen, variant


def _measure(
    scenario: Scenario,
    count: int,
    ready: dict[str, peers.Environment],
    endpoints: s3_server.Endpoints,
    objects: s3_measure.Objects,
) -> list[s3_results.Row]:
    def load(row: s3_results.Row, check: bool) -> s3_measure.Sample:
        loader, changed = variant(scenario, row.entry)
        return s3_measure.run(changed, loader, ready, endpoints, objects, check=check)

    entries = [entry for entry in scenario.loaders if variant(scenario, entry)[0] in ready]
    rows = [s3_results.Row(scenario, entry, s3_results.title(entry)) for entry in entries]
    rounds.alternate(rows, count, load)
    return rows


def _checksums(objects: s3_measure.Objects, scenarios: tuple[Scenario, ...]) -> dict[str, str]:
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
    parser = rounds.parser("benchmarks/s3.py", "Compare loaders of safetensors objects, served by nginx on loopback.")
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
    wanted = rounds.wanted(options.peers.split(",") if options.peers else s3_peers.PEERS, s3_peers.PEERS)
    # The heartbeat of a process that does nothing is what the others are compared with.
    ready, missing = rounds.environments(wanted | {"idle"}, s3_peers.PEERS, s3_peers.prepare, options.torch)
    objects = s3_measure.make_objects(options.shards)
    about = machine.describe(objects.folder)
    about += [("server", f"{s3_server.version()} on loopback, sharing the cores")]
    about += [("objects", f"{len(objects.files)}, {objects.nbytes / 1e9:.2f} GB")]
    about += [(each.peer.title, each.version) for each in ready.values() if each.version]
    about += [(s3_peers.PEERS[name].title, f"not run: {reason}") for name, reason in missing.items()]
    facts = [f"{name}: {value}" for name, value in about]
    measured = s3_results.Results()

    def document() -> str:
        promised = claims.report(s3_claims.evaluate(measured, objects))
        table = s3_results.table(measured)
        return rounds.document(
            "Reads from object storage", "benchmarks/s3.py", arguments, options.rounds, facts, promised, table
        )

    with s3_server.nginx(objects.folder, _checksums(objects, scenarios)) as endpoints:

        def blocks() -> Iterator[list[s3_results.Row]]:
            for scenario in scenarios:
                yield _measure(scenario, options.rounds, ready, endpoints, objects)

        rounds.publish(blocks(), measured, document, options.out)
