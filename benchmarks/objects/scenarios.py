"""What is measured against object storage: each scenario is an endpoint and a use, for some loaders in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MIB = 1 << 20

Endpoint = Literal[
    "http", "tls", "flaky", "slow30", "slow90", "far", "stragglers", "throttled", "far-stragglers", "loss", "far-loss"
]

LOSSY: tuple[Endpoint, ...] = ("loss", "far-loss")

CHUNK = 8 * MIB


@dataclass(frozen=True, slots=True)
class Scenario:
    """One block of the table: its loaders run in alternation.

    Attributes:
        name: what the table and `--scenario` call it.
        endpoint: which of server.py's.
        loaders: names from peers.py; `name@variant` changes the scenario for that one (`variant`).
        connections: reads in flight at once, for every loader.
        limit: RUNAI_STREAMER_MEMORY_LIMIT in bytes, for the loaders that have it.
        heartbeat: a thread beside the load wakes every millisecond and notes how late it was, and so does one of a
            process that does nothing.
        verify: RUNAI_STREAMER_VERIFY.
        own: loaders choose the number of their connections by themselves; `connections` is that of the programs.
    """

    name: str
    endpoint: Endpoint
    loaders: tuple[str, ...]
    connections: int = 8
    limit: int | None = None
    heartbeat: bool = False
    verify: bool = False
    own: bool = False


OURS = ("ours-curl", "ours-boto3")
PROGRAMS = ("curl", "curl-each")
EVERYONE = (*OURS, "runai", "obstore", *PROGRAMS)

FOUND = ("ours-curl", "ours-curl@8", "runai", "curl")
"""How many connections are found: by ours, 8 of them, by the original, and the best that there is."""

SCENARIOS = (
    Scenario("http", "http", EVERYONE),
    Scenario("tls", "tls", EVERYONE),
    Scenario("tls-heartbeat", "tls", (*OURS, "runai", "idle"), connections=16, heartbeat=True),
    Scenario("http-256M", "http", (*OURS, "runai"), limit=256 * MIB),
    Scenario("tls-256M", "tls", (*OURS, "runai"), limit=256 * MIB),
    Scenario("http-faults", "flaky", ("ours-curl", "ours-curl@steady", "ours-boto3", "ours-boto3@steady")),
    Scenario("http-verify", "http", ("ours-curl@verify", "ours-curl", "ours-boto3@verify", "ours-boto3")),
    Scenario("slow30", "slow30", FOUND, connections=64, own=True),
    Scenario("slow90", "slow90", FOUND, connections=64, own=True),
    Scenario("far", "far", FOUND, connections=64, own=True),
    Scenario("stragglers", "stragglers", FOUND, connections=64, own=True),
    Scenario("far-stragglers", "far-stragglers", FOUND, connections=64, own=True),
    Scenario("loss", "loss", FOUND, connections=64, own=True),
    Scenario("far-loss", "far-loss", FOUND, connections=64, own=True),
    Scenario("throttled", "throttled", ("ours-curl", "ours-curl@8", "runai"), own=True),
    Scenario("loopback", "http", (*FOUND, "ours-boto3"), own=True),
    Scenario("loopback-tls", "tls", (*FOUND, "ours-boto3"), own=True),
)


def chosen(names: list[str] | None) -> tuple[Scenario, ...]:
    """The scenarios with these names, or all."""
    every = [scenario.name for scenario in SCENARIOS]
    if unknown := set(names or ()) - set(every):
        raise SystemExit(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return tuple(scenario for scenario in SCENARIOS if not names or scenario.name in names)


def lossy(scenarios: tuple[Scenario, ...]) -> bool:
    """Whether packets are lost in one of them. Then the run has a network of its own."""
    return any(scenario.endpoint in LOSSY for scenario in scenarios)


def variant(scenario: Scenario, entry: str) -> tuple[str, Scenario]:
    """The loader of an entry, and the scenario as it is for that entry."""
    loader, _, change = entry.partition("@")
    if change == "steady":
        return loader, replace(scenario, endpoint="http")
    if change == "8":
        return loader, replace(scenario, connections=8, own=False)
    if change == "verify":
        return loader, replace(scenario, verify=True)
    return loader, scenario
