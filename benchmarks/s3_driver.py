"""The run itself: install, serve, alternate, print, write. `s3.py` is its command."""

from __future__ import annotations

import argparse
import base64
import signal
import sys
from pathlib import Path

from benchmarks import claims, machine, peers, s3_claims, s3_measure, s3_peers, s3_results, s3_server
from benchmarks.measure import LoadError
from benchmarks.s3_scenarios import Scenario, chosen, variant


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _environments(wanted: set[str], torch: str) -> tuple[dict[str, peers.Environment], dict[str, str]]:
    """Loaders that run here, and for each of the others why it does not."""
    ready: dict[str, peers.Environment] = {}
    missing: dict[str, str] = {}
    for name in s3_peers.PEERS:
        if name in wanted:
            try:
                ready[name] = s3_peers.prepare(name, torch)
            except peers.CannotRunError as reason:
                missing[name] = str(reason)
                _say(f"{name} cannot run here: {reason}")
    return ready, missing


def _measure(
    scenario: Scenario,
    rounds: int,
    ready: dict[str, peers.Environment],
    endpoints: s3_server.Endpoints,
    objects: s3_measure.Objects,
) -> list[s3_results.Row]:
    rows = [s3_results.Row(scenario, entry) for entry in scenario.loaders if variant(scenario, entry)[0] in ready]
    for turn in range(rounds + 1):
        for row in rows:
            if row.failure:
                continue
            loader, changed = variant(scenario, row.entry)
            # The first turn is not counted: in it the bytes of a few tensors are compared with the file.
            try:
                sample = s3_measure.run(changed, loader, ready, endpoints, objects, check=turn == 0)
            except LoadError as reason:
                row.failure = f"failed: {reason}"
                row.samples.clear()
                _say(f"{scenario.name} {row.entry}: {row.failure}")
                continue
            if turn:
                row.samples.append(sample)
                _say(f"{scenario.name} {turn}/{rounds} {row.entry}: {sample.seconds:.2f} s")
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


def _document(
    about: list[tuple[str, str]], measured: s3_results.Results, objects: s3_measure.Objects, command: str, rounds: int
) -> str:
    return "\n".join(
        [
            "# Reads from object storage",
            "",
            f"Written by `{command}`.",
            "",
            f"Medians of {rounds} rounds, every load in a process of its own, a scenario's loaders in alternation.",
            "How each column is measured is in `benchmarks/s3.py`.",
            "",
            *(f"- {name}: {value}" for name, value in about),
            "",
            "## What was promised",
            "",
            claims.report(s3_claims.evaluate(measured, objects)),
            "",
            "## What was measured",
            "",
            s3_results.table(measured),
            "",
        ]
    )


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/s3.py", description="Compare loaders of safetensors objects, served by nginx on loopback."
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of every scenario (5)")
    parser.add_argument("--scenario", action="append", help="a scenario; may be repeated (all)")
    parser.add_argument("--peers", help="comma-separated loaders to run (all)")
    parser.add_argument("--shards", type=int, default=2, choices=(1, 2), help="of the checkpoint: 3.9 GB, or 2 GB (2)")
    parser.add_argument("--out", type=Path, help="also write the tables here, for example benchmarks/RESULTS-S3.md")
    parser.add_argument("--torch", default=peers.TORCH, help="the requirement that every environment is made with")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the scenarios that the command line chooses; prints the tables on standard output."""
    # Ended by `kill`, the run ends its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _arguments(arguments)
    scenarios = chosen(options.scenario)
    wanted = set(options.peers.split(",")) if options.peers else set(s3_peers.PEERS)
    if unknown := wanted - set(s3_peers.PEERS):
        raise SystemExit(f"no loader {', '.join(sorted(unknown))}; there are {', '.join(s3_peers.PEERS)}")
    # The heartbeat of a process that does nothing is what the others are compared with.
    ready, missing = _environments(wanted | {"idle"}, options.torch)
    objects = s3_measure.make_objects(options.shards)
    about = machine.describe(objects.folder)
    about += [("server", f"{s3_server.version()} on loopback, sharing the cores")]
    about += [("objects", f"{len(objects.files)}, {objects.nbytes / 1e9:.2f} GB")]
    about += [(each.peer.title, each.version) for each in ready.values() if each.version]
    about += [(s3_peers.PEERS[name].title, f"not run: {reason}") for name, reason in missing.items()]
    command = " ".join(["python benchmarks/s3.py", *(arguments if arguments is not None else sys.argv[1:])])
    measured = s3_results.Results()
    text = ""
    with s3_server.nginx(objects.folder, _checksums(objects, scenarios)) as endpoints:
        for scenario in scenarios:
            for row in _measure(scenario, options.rounds, ready, endpoints, objects):
                measured.add(row)
            text = _document(about, measured, objects, command, options.rounds)
            # After each: what is measured should outlive what ends the run.
            if options.out:
                options.out.write_text(text)
    print(text)
