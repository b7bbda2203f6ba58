"""What the loader promises about object storage, each line computed from a run's results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from benchmarks.checkpoints import read_header
from benchmarks.claims import Claim, least, most, spread
from benchmarks.s3_measure import Objects, Sample
from benchmarks.s3_results import Results, cpu_s_per_gb
from benchmarks.s3_scenarios import MIB, SCENARIOS

OURS = "ours-curl"
PEER = "runai"
PROGRAM = "curl"


def _speed(sample: Sample) -> float:
    return sample.gb_per_s


def _middle(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _speeds(results: Results) -> Iterator[Claim]:
    for scenario, peer, program, cpu in (("http", 2.5, 0.7, 1.7), ("tls", 1.6, 0.8, 1.3)):
        name = scenario.upper()
        ratios = results.ratios(scenario, OURS, PEER, _speed)
        yield least(1, f"{name}: times the peer", _middle(ratios), peer, spread(ratios))
        ratios = results.ratios(scenario, OURS, PROGRAM, _speed)
        yield least(1, f"{name}: of the curl program", _middle(ratios), program, spread(ratios))
        value = _middle(results.ratios(scenario, OURS, "curl-each", _speed))
        shown = "not measured" if value is None else f"{value:.2f}"
        yield Claim(1, f"{name}: of the curl program, a process for each connection", "named", shown, None)
        ratios = results.ratios(scenario, OURS, PROGRAM, cpu_s_per_gb)
        yield most(1, f"{name}: CPU seconds per GB over the curl program's", _middle(ratios), cpu)


def _heartbeat(results: Results) -> Iterator[Claim]:
    ours, idle = results.row("tls-heartbeat", OURS), results.row("tls-heartbeat", "idle")
    for text, figure, wanted in (
        ("the longest that a heartbeat is held up, beyond an idle process's", _held, 20.0),
        ("the heartbeat's median lateness, beyond an idle process's", _median_late, 1.0),
    ):
        value = None
        if ours and idle:
            pick = ours.largest if figure is _held else ours.median
            pick_idle = idle.largest if figure is _held else idle.median
            mine, still = pick(figure), pick_idle(figure)
            value = None if mine is None or still is None else mine - still
        yield most(2, f"TLS, 16 connections: {text}", value, wanted, " ms")


def _held(sample: Sample) -> float | None:
    return sample.held_ms


def _median_late(sample: Sample) -> float | None:
    return sample.median_ms


def _memory(results: Results, objects: Objects) -> Iterator[Claim]:
    largest = max(tensor.nbytes for path in objects.files for tensor in read_header(path))
    for scenario in SCENARIOS:
        if scenario.limit is not None:
            row = results.row(scenario.name, OURS)
            peak = row.largest(lambda sample: sample.peak_mib) if row else None
            bound = (scenario.limit + largest) / MIB + 64
            yield most(5, f"{scenario.name}: peak RSS above baseline", peak, bound, " MiB")


def _costs(results: Results) -> Iterator[Claim]:
    for number, text, scenario, entry, other in (
        (4, "30% of requests refused", "http-faults", OURS, f"{OURS}@steady"),
        (7, "verifying (CRC64NVME)", "http-verify", f"{OURS}@verify", OURS),
    ):
        speed: Callable[[Sample], float]
        for what, speed in (("speed", _speed), ("CPU seconds per GB", cpu_s_per_gb)):
            value = _middle(results.ratios(scenario, entry, other, speed))
            shown = "not measured" if value is None else f"{value:.2f}"
            yield Claim(number, f"{text}: {what}, over that without", "named", shown, None)


def evaluate(results: Results, objects: Objects) -> list[Claim]:
    """Every claim in order, those that this run did not measure included."""
    claims = [*_speeds(results), *_heartbeat(results), *_memory(results, objects), *_costs(results)]
    return sorted(claims, key=lambda claim: claim.number)
