"""What the loader promises about local reads, each line computed from a run's results."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.checkpoints import read_header
from benchmarks.claims import Claim, least, most, named, spread
from benchmarks.files.measure import files_of
from benchmarks.files.results import Results, disk_ratio, first_ms, microseconds_per_tensor
from benchmarks.files.scenarios import BUFFERED, MIB, SCENARIOS, Scenario
from benchmarks.tables import cpu_s_per_gb, speed

PEER = "runai"
# Loaders that give tensors memory of their own. safetensors maps the page cache: keeping costs it nothing, and the
# bytes are not in the process until somebody reads them.
OWN_MEMORY = (PEER, "fastsafetensors", *BUFFERED)


def _warm(results: Results) -> Iterator[Claim]:
    for text, scenario, other, wanted in (
        ("warm, dropped: times the peer's default", "warm-dropped", PEER, 4),
        ("warm, dropped: of the two-thread preadv loop", "warm-dropped", "preadv-loop", 0.7),
        ("warm, copied into parameters: times the peer's default", "warm-copied", PEER, 2),
    ):
        ratios = results.ratios(scenario, "ours", other)
        yield least(1, text, results.ratio(scenario, "ours", other), wanted, spread(ratios))
    ratio = results.ratio("warm-copied", "ours", "read-then-copy")
    yield named(1, "warm, copied into parameters: of two threads that read, then copy", ratio)


def _cold(results: Results) -> Iterator[Claim]:
    ratio = results.ratio("cold-dropped", "ours", "raw-direct")
    rounds = results.ratios("cold-dropped", "ours", "raw-direct")
    yield least(2, "cold, dropped: of raw direct reads", ratio, 0.95, spread(rounds))
    for scenario in SCENARIOS:
        # With several processes the page cache is shared on purpose: that is claim 9's.
        if scenario.cache == "cold" and scenario.world == 1:
            ratios = results.ratios(scenario.name, "ours", PEER)
            ratio = results.ratio(scenario.name, "ours", PEER)
            yield least(2, f"{scenario.name}: times the peer", ratio, 1, spread(ratios))
    cpu = results.median("cold-dropped", "ours", cpu_s_per_gb)
    yield most(2, "cold, dropped: CPU seconds per GB", cpu, 0.1)


def _kept(results: Results) -> Iterator[Claim]:
    rows = [row for name in OWN_MEMORY if (row := results.row("warm-kept", name))]
    fastest = max(rows, key=lambda row: row.median(speed) or 0, default=None)
    ratio = results.ratio("warm-kept", "ours", fastest.entry) if fastest else None
    name = fastest.title if fastest else "none ran"
    yield least(4, f"warm, kept: times the fastest peer with memory of its own ({name})", ratio, 1)
    for text, other in (
        ("warm, kept: of reads into fresh huge pages", "fresh-pages"),
        ("warm, kept: of safetensors, which maps the page cache and reads nothing", "safetensors"),
    ):
        yield named(4, text, results.ratio("warm-kept", "ours", other))


def _many(results: Results) -> Iterator[Claim]:
    row = results.row("warm-many", "ours")
    each = microseconds_per_tensor(row) if row else None
    yield most(5, "50,000 small tensors: microseconds a tensor", each, 8, " us")
    for other, text, wanted in (("safetensors", "times safe_open's loop", 1.5), (PEER, "times the peer", 2)):
        ratios = results.ratios("warm-many", "ours", other)
        ratio = results.ratio("warm-many", "ours", other)
        yield least(5, f"50,000 small tensors: {text}", ratio, wanted, spread(ratios))


def _first(results: Results) -> Iterator[Claim]:
    row = results.row("warm-dropped", "ours")
    text = "first tensor of the warm checkpoint, beyond its bytes at the warm rate"
    if row is None:
        yield most(6, text, None, 30, " ms")
        return
    first, rate = row.median(first_ms), row.median(speed)
    # The first tensor, the embedding, is larger than any group of several: it is its own group.
    nbytes = read_header(files_of(row.scenario)[0])[0].nbytes
    yield most(6, text, first - nbytes / rate / 1e6 if first and rate else None, 30, " ms")


def _peak(results: Results) -> Iterator[Claim]:
    for name in ("warm-dropped-256M", "warm-dropped-256M-shard2", "warm-dropped-1G", "warm-dropped-1G-shard2"):
        scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
        peak = results.largest(name, "ours", lambda sample: sample.peak_mib)
        yield most(7, f"{name}: peak RSS above baseline", peak, _bound(scenario), " MiB")


def _bound(scenario: Scenario) -> float:
    largest = max(tensor.nbytes for path in files_of(scenario) for tensor in read_header(path))
    return ((scenario.limit or 0) + largest) / MIB + 64


def evaluate(results: Results) -> list[Claim]:
    """Every claim in order, those that this run did not measure included."""
    limited = results.ratio("warm-dropped-256M", "ours", "ours@unlimited")
    half = results.ratio("half-cached", "ours", "ours@cold")
    disk = results.median("cold-four-at-once", "ours", disk_ratio)
    return [
        *_warm(results),
        *_cold(results),
        least(3, "warm, limit 256 MiB: of the default", limited, 0.9),
        *_kept(results),
        *_many(results),
        *_first(results),
        *_peak(results),
        least(8, "half of the file cached: times the cold load", half, 1),
        most(9, "four loaders of one cold file: bytes from the disk over its size", disk, 1.25),
    ]
