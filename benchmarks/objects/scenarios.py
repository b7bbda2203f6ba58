"""What is measured against object storage: each scenario is an endpoint and a use, for some loaders in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MIB = 1 << 20

Endpoint = Literal["http", "tls", "flaky"]

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
    """

    name: str
    endpoint: Endpoint
    loaders: tuple[str, ...]
    connections: int = 8
    limit: int | None = None
    heartbeat: bool = False
    verify: bool = False


OURS = ("ours-curl", "ours-boto3")
PROGRAMS = ("curl", "curl-each")
EVERYONE = (*OURS, "runai", "obstore", *PROGRAMS)

SCENARIOS = (
    Scenario("http", "http", EVERYONE),
    Scenario("tls", "tls", EVERYONE),
    Scenario("tls-heartbeat", "tls", (*OURS, "runai", "idle"), connections=16, heartbeat=True),
    Scenario("http-256M", "http", (*OURS, "runai"), limit=256 * MIB),
    Scenario("tls-256M", "tls", (*OURS, "runai"), limit=256 * MIB),
    Scenario("http-faults", "flaky", ("ours-curl", "ours-curl@steady", "ours-boto3", "ours-boto3@steady")),
    Scenario("http-verify", "http", ("ours-curl@verify", "ours-curl", "ours-boto3@verify", "ours-boto3")),
)


def chosen(names: list[str] | None) -> tuple[Scenario, ...]:
    """The scenarios with these names, or all."""
    every = [scenario.name for scenario in SCENARIOS]
    if unknown := set(names or ()) - set(every):
        raise SystemExit(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return tuple(scenario for scenario in SCENARIOS if not names or scenario.name in names)


def variant(scenario: Scenario, entry: str) -> tuple[str, Scenario]:
    """The loader of an entry, and the scenario as it is for that entry."""
    loader, _, change = entry.partition("@")
    if change == "steady":
        return loader, replace(scenario, endpoint="http")
    if change == "verify":
        return loader, replace(scenario, verify=True)
    return loader, scenario
