"""What is measured: each scenario is a state of the page cache, a checkpoint and a use, for some loaders in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MIB = 1 << 20

Cache = Literal["warm", "cold", "half", "second"]
Use = Literal["dropped", "copied", "kept"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One block of the table: its loaders run in alternation.

    Attributes:
        name: what the table and `--scenario` call it.
        checkpoint: which of checkpoints.py's.
        cache: the page cache before the load: all of the files, nothing, every other piece of 8 MiB, or what the
            same loader's first load of the cold files left ('second': another process loads them again).
        use: what happens to each tensor: dropped untouched, copied into a parameter that already has its memory, or
            kept to the end.
        loaders: names from peers.py or limits.py; `name@cache` runs it in another cache state, for comparison.
        limit: RUNAI_STREAMER_MEMORY_LIMIT in bytes, for the loaders that have it.
        last_shard: only the checkpoint's last file (in 'large', the one without the embedding).
        first: the load is the first of a fresh process, which has imported torch and the loader's package.
        world: processes that load the same files at once (LOCAL_WORLD_SIZE).
    """

    name: str
    checkpoint: str
    cache: Cache
    use: Use
    loaders: tuple[str, ...]
    limit: int | None = None
    last_shard: bool = False
    first: bool = False
    world: int = 1


STREAMERS = ("ours", "runai")
BUFFERED = ("runai-buffered", "fastsafetensors-buffered")
EVERYONE = ("ours", "runai", "fastsafetensors", *BUFFERED, "safetensors")
# The peers' buffered modes have nothing to find in the page cache of a cold file: their defaults are faster.
COLD = ("ours", "runai", "fastsafetensors", "safetensors")

_WARM = Scenario("warm-dropped", "large", "warm", "dropped", (*EVERYONE, "preadv-loop"))
_COLD = Scenario("cold-dropped", "large", "cold", "dropped", (*COLD, "raw-direct"))

SCENARIOS = (
    _WARM,
    replace(_WARM, name="warm-copied", use="copied", loaders=(*EVERYONE, "read-then-copy")),
    replace(_WARM, name="warm-kept", use="kept", loaders=(*EVERYONE, "fresh-pages")),
    # The default runs beside the limits: a comparison across scenarios would compare different minutes too.
    replace(_WARM, name="warm-dropped-256M", limit=256 * MIB, loaders=("ours", "ours@unlimited", "runai")),
    replace(_WARM, name="warm-dropped-1G", limit=1024 * MIB, loaders=STREAMERS),
    replace(_WARM, name="warm-dropped-256M-shard2", limit=256 * MIB, last_shard=True, loaders=STREAMERS),
    replace(_WARM, name="warm-dropped-1G-shard2", limit=1024 * MIB, last_shard=True, loaders=STREAMERS),
    replace(_WARM, name="warm-copied-256M", limit=256 * MIB, use="copied", loaders=STREAMERS),
    replace(_WARM, name="first-dropped", first=True, loaders=("ours", *BUFFERED, "two-buffers")),
    replace(_WARM, name="first-kept", first=True, use="kept", loaders=("ours", *BUFFERED, "fresh-pages")),
    Scenario("warm-many", "many", "warm", "dropped", ("ours", "runai", *BUFFERED, "safetensors")),
    Scenario("warm-shards", "shards", "warm", "dropped", ("ours", "runai", *BUFFERED, "safetensors")),
    Scenario("warm-odd", "odd", "warm", "dropped", EVERYONE),
    _COLD,
    replace(_COLD, name="cold-copied", use="copied", loaders=COLD),
    replace(_COLD, name="cold-kept", use="kept", loaders=COLD),
    replace(_COLD, name="cold-dropped-256M", limit=256 * MIB, loaders=STREAMERS),
    replace(_COLD, name="cold-dropped-1G", limit=1024 * MIB, loaders=STREAMERS),
    Scenario("cold-many", "many", "cold", "dropped", ("ours", "runai", "fastsafetensors", "safetensors")),
    Scenario("cold-shards", "shards", "cold", "dropped", ("ours", "runai", "safetensors")),
    replace(_COLD, name="half-cached", cache="half", loaders=("ours", "ours@cold", "runai")),
    replace(_COLD, name="second-load", cache="second", loaders=EVERYONE),
    replace(_COLD, name="cold-four-at-once", world=4, loaders=("ours", "runai", "runai-buffered")),
)


def chosen(names: list[str] | None) -> tuple[Scenario, ...]:
    """The scenarios with these names, or all; what is no scenario's name chooses each whose name begins so."""
    if not names:
        return SCENARIOS
    every = [scenario.name for scenario in SCENARIOS]
    wanted: set[str] = set()
    for name in names:
        found = {name} if name in every else {other for other in every if other.startswith(name)}
        if not found:
            raise SystemExit(f"no scenario {name!r}; there are {', '.join(every)}")
        wanted |= found
    return tuple(scenario for scenario in SCENARIOS if scenario.name in wanted)


def variant(scenario: Scenario, entry: str) -> tuple[str, Scenario]:
    """The loader of an entry, and the scenario as it is for that entry (`name@cache` and `name@unlimited`)."""
    loader, _, change = entry.partition("@")
    if change == "unlimited":
        return loader, replace(scenario, limit=None)
    if change == "cold":
        return loader, replace(scenario, cache="cold")
    return loader, scenario
