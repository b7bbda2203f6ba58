"""What the loader promises about object storage, each line computed from a run's results."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.checkpoints import read_header
from benchmarks.claims import Claim, least, most, named, spread
from benchmarks.objects.measure import Objects, Sample
from benchmarks.objects.results import Results
from benchmarks.objects.scenarios import MIB, SCENARIOS
from benchmarks.tables import cpu_s_per_gb, speed

OURS = "ours-curl"
PEER = "runai"
PROGRAM = "curl"


def _speeds(results: Results) -> Iterator[Claim]:
    for scenario, peer, program, cpu in (("http", 2.5, 0.7, 1.7), ("tls", 1.6, 0.8, 1.3)):
        name = scenario.upper()
        for text, other, wanted in (("times the peer", PEER, peer), ("of the curl program", PROGRAM, program)):
            rounds = spread(results.ratios(scenario, OURS, other))
            yield least(1, f"{name}: {text}", results.ratio(scenario, OURS, other), wanted, rounds)
        each = results.ratio(scenario, OURS, "curl-each")
        yield named(1, f"{name}: of the curl program, a process for each connection", each)
        ratio = results.ratio(scenario, OURS, PROGRAM, cpu_s_per_gb)
        yield most(1, f"{name}: CPU seconds per GB over the curl program's", ratio, cpu)


def _heartbeat(results: Results) -> Iterator[Claim]:
    def beyond(find: Callable[[str], float | None]) -> float | None:
        ours, idle = find(OURS), find("idle")
        return None if ours is None or idle is None else ours - idle

    held = beyond(lambda entry: results.largest("tls-heartbeat", entry, lambda sample: sample.held_ms))
    late = beyond(lambda entry: results.median("tls-heartbeat", entry, lambda sample: sample.median_ms))
    beside = results.largest("tls-heartbeat", OURS, _beyond_bystander)
    text = "TLS, 16 connections: the"
    # The server takes its share of the cores: only a process that idles meanwhile tells what the load itself does.
    yield most(2, f"{text} longest that a heartbeat is held up, beyond that of an idle process", beside, 20.0, " ms")
    yield named(2, f"{text} same, beyond that of the idle machine, ms", held)
    yield most(2, f"{text} heartbeat's median lateness, beyond an idle process's", late, 1.0, " ms")


def _beyond_bystander(sample: Sample) -> float | None:
    if sample.held_ms is None or sample.elsewhere_ms is None:
        return None
    return sample.held_ms - sample.elsewhere_ms


def _memory(results: Results, objects: Objects) -> Iterator[Claim]:
    largest = max(tensor.nbytes for path in objects.files for tensor in read_header(path))
    for scenario in SCENARIOS:
        if scenario.limit is not None:
            peak = results.largest(scenario.name, OURS, lambda sample: sample.peak_mib)
            bound = (scenario.limit + largest) / MIB + 64
            yield most(5, f"{scenario.name}: peak RSS above baseline", peak, bound, " MiB")


def _costs(results: Results) -> Iterator[Claim]:
    for number, text, scenario, entry, other in (
        (4, "30% of requests refused", "http-faults", OURS, f"{OURS}@steady"),
        (7, "verifying (CRC64NVME)", "http-verify", f"{OURS}@verify", OURS),
    ):
        for what, figure in (("speed", speed), ("CPU seconds per GB", cpu_s_per_gb)):
            value = results.ratio(scenario, entry, other, figure)
            yield named(number, f"{text}: {what}, over that without", value)


def _found(results: Results) -> Iterator[Claim]:
    eight = f"{OURS}@8"
    for scenario, other, text, wanted in (
        ("slow30", PROGRAM, "30 MB/s a connection: of the curl program with 64", 0.9),
        ("slow30", PEER, "30 MB/s a connection: times the peer", 2.0),
        ("slow90", PROGRAM, "90 MB/s a connection: of the curl program with 64", 0.9),
        ("far", PEER, "20 ms a request: times the peer", 1.5),
        ("far", eight, "20 ms a request: times 8 connections", 3.0),
        ("far-loss", PEER, "20 ms a request, 0.5% of packets lost: times the peer", 1.5),
        ("far-loss", eight, "20 ms a request, 0.5% of packets lost: times 8 connections", 3.0),
        ("loopback", eight, "no limit, HTTP: of 8 connections", 0.97),
        ("loopback-tls", eight, "no limit, TLS: of 8 connections", 0.97),
    ):
        yield least(
            8, text, results.ratio(scenario, OURS, other), wanted, spread(results.ratios(scenario, OURS, other))
        )
    for scenario in ("loopback", "loopback-tls"):
        ratio = results.ratio(scenario, OURS, eight, cpu_s_per_gb)
        yield most(8, f"{scenario}: CPU seconds per GB over that of 8 connections", ratio, 1.0)
    plain = results.median("slow30", OURS, lambda sample: sample.seconds)
    late = results.median("stragglers", OURS, lambda sample: sample.seconds)
    times = None if plain is None or late is None else late / plain
    yield most(9, "one range in 50 ten times as slow: seconds, over those without", times, 1.15)
    fetched = results.largest("stragglers", OURS, lambda sample: sample.fetched and sample.fetched / sample.nbytes)
    yield most(9, "the same: bytes fetched, over those wanted", fetched, 1.05)
    refused = results.median("throttled", OURS, lambda sample: sample.refused)
    yield most(10, "200 requests a second: part that was refused, of all of the load", refused, 0.05)


def evaluate(results: Results, objects: Objects) -> list[Claim]:
    """Every claim in order, those that this run did not measure included."""
    claims = [*_speeds(results), *_heartbeat(results), *_memory(results, objects), *_costs(results), *_found(results)]
    return sorted(claims, key=lambda claim: claim.number)
