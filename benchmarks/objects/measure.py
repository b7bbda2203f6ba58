"""Run one loader once against object storage, in a fresh process, and collect what it took."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from benchmarks import caches, checkpoints, machine
from benchmarks.environments import WORKER, Environment
from benchmarks.objects.scenarios import CHUNK, Scenario
from benchmarks.objects.server import BUCKET, Endpoints
from benchmarks.worker_process import SPARE, Worker

IDLE_S = 5.0

LOGGED_S = 0.2
"""Until the server has written about its last answers."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load: seconds, bytes and MiB as the names say; None where it was not measured, or has no meaning.

    `peak_mib` is the resident set's high-water mark above the size before. `held_ms` is the longest that the
    heartbeat was held up, `median_ms` its median; `elsewhere_ms` the longest in a process that did nothing meanwhile.
    `fetched` counts bytes of bodies that the server sent, `refused` is the part of its answers that were 503.
    """

    nbytes: int
    seconds: float
    cpu_s: float
    first_s: float | None
    peak_mib: float | None
    held_ms: float | None = None
    median_ms: float | None = None
    elsewhere_ms: float | None = None
    fetched: int | None = None
    refused: float | None = None

    @property
    def gb_per_s(self) -> float:
        return self.nbytes / self.seconds / 1e9


@dataclass(frozen=True, slots=True)
class Objects:
    """What is loaded: the local files that the server hands out, and one small one."""

    folder: Path
    files: tuple[Path, ...]
    tiny: Path

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def key(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def url(self, path: Path) -> str:
        return f"s3://{BUCKET}/{self.key(path)}"


def make_objects(shards: int) -> Objects:
    """The large checkpoint, or its last `shards` files, and the tiny one: made now unless they are there."""
    files = checkpoints.make("large").files[-shards:]
    return Objects(files[0].parent.parent, files, checkpoints.make("tiny").files[0])


def variables(scenario: Scenario, environment: Environment, endpoints: Endpoints) -> dict[str, str]:
    """The process environment of a loader: where the store is, and the same shape of reads for every one."""
    authority, url = str(endpoints.authority), endpoints.url(scenario.endpoint)
    kept = {name: value for name, value in environment.variables().items() if not name.lower().endswith("_proxy")}
    kept |= {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_ENDPOINT_URL": url,
        "AWS_CA_BUNDLE": authority,
        "CURL_CA_BUNDLE": authority,
        "SSL_CERT_FILE": authority,
        "RUNAI_STREAMER_S3_ENDPOINT": url,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_CHUNK_BYTESIZE": str(CHUNK),
        "RUNAI_STREAMER_VERIFY": str(int(scenario.verify)),
    }
    if not scenario.own:
        kept |= dict.fromkeys(("RUNAI_STREAMER_CONCURRENCY", "RUNAI_STREAMER_CONNECTIONS"), str(scenario.connections))
    if scenario.limit is not None:
        kept["RUNAI_STREAMER_MEMORY_LIMIT"] = str(scenario.limit)
    return kept


@contextlib.contextmanager
def _worker(
    scenario: Scenario, loader: str, environment: Environment, endpoints: Endpoints, objects: Objects, check: bool
) -> Iterator[Worker]:
    job = {
        "loader": loader,
        "endpoint": endpoints.url(scenario.endpoint),
        "urls": [objects.url(path) for path in objects.files],
        "files": [str(path) for path in objects.files],
        "tiny": objects.url(objects.tiny),
        "connections": scenario.connections,
        "chunk": CHUNK,
        "heartbeat": scenario.heartbeat,
        "check": check,
    }
    own = variables(scenario, environment, endpoints)
    with contextlib.closing(Worker([environment.python, WORKER, json.dumps(job)], own)) as worker:
        worker.answer()
        yield worker


def run(
    scenario: Scenario,
    loader: str,
    environments: dict[str, Environment],
    endpoints: Endpoints,
    objects: Objects,
    *,
    check: bool = False,
) -> Sample:
    """Load once. Raises LoadError where the loader fails."""
    caches.warm(objects.files)
    # A bystander: what the scheduler does to any thread of this machine meanwhile, whatever the loader's process does.
    bystanders = 1 if scenario.heartbeat and loader != "idle" else 0
    with contextlib.ExitStack() as stack:
        beside = [
            stack.enter_context(_worker(scenario, "idle", environments["idle"], endpoints, objects, False))
            for _ in range(bystanders)
        ]
        worker = stack.enter_context(_worker(scenario, loader, environments[loader], endpoints, objects, check))
        machine.prime_memory(2 * SPARE)
        caches.settle()
        for other in beside:
            other.go()
        before = endpoints.answers.stat().st_size
        worker.go()
        if loader == "idle":
            sleep(IDLE_S)
            worker.go()
        found = worker.answer(watch=True)
        elsewhere = None
        for other in beside:
            other.go()
            elsewhere = other.answer()["held_ms"]
    sleep(LOGGED_S)
    statuses, sent = answers(endpoints.answers, before)
    # The kernel's own mark: anonymous memory is nearly all that a process that reads from a socket has.
    return Sample(
        nbytes=objects.nbytes,
        seconds=found["seconds"],
        cpu_s=found["cpu_s"],
        first_s=found["first_s"],
        peak_mib=found["peak_mib"],
        held_ms=found.get("held_ms"),
        median_ms=found.get("median_ms"),
        elsewhere_ms=elsewhere,
        fetched=sum(sent) if sent else None,
        refused=statuses.count(503) / len(statuses) if statuses else None,
    )


def answers(log: Path, begin: int) -> tuple[list[int], list[int]]:
    """The status of each answer that the log has from this byte on, and the bytes sent with it."""
    with log.open() as file:
        file.seek(begin)
        lines = [list(map(int, line.split())) for line in file]
    return [status for _, status, _ in lines], [sent for _, status, sent in lines if status != 503]
