"""Run one loader once in one scenario, in fresh processes, and collect what it took."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import caches, checkpoints, machine
from benchmarks.environments import WORKER, Environment
from benchmarks.files import limits
from benchmarks.files.scenarios import Scenario
from benchmarks.worker_process import SPARE, Worker


@dataclass(frozen=True, slots=True)
class Sample:
    """One load: seconds and bytes as the names say; peaks are above the process's size before the load.

    `anon_mib` is anonymous memory only, sampled from outside; `peak_mib` is the kernel's high-water mark of the whole
    resident set (or `anon_mib`, if that is larger), which for a loader that maps files counts the page cache too.
    `disk_bytes` is what the block device read meanwhile, for anyone; `own_bytes` what these processes had it read
    (/proc/PID/io). With several processes: the slowest's times, the largest peak, the mean of CPU seconds, the sum of
    bytes.
    """

    nbytes: int
    seconds: float
    cpu_s: float
    first_s: float | None
    peak_mib: float
    anon_mib: float
    disk_bytes: int | None
    own_bytes: int
    import_s: float | None

    @property
    def gb_per_s(self) -> float:
        return self.nbytes / self.seconds / 1e9


def files_of(scenario: Scenario) -> tuple[Path, ...]:
    files = checkpoints.make(scenario.checkpoint).files
    return files[-1:] if scenario.last_shard else files


def data_bytes(scenario: Scenario) -> int:
    return sum(path.stat().st_size for path in files_of(scenario))


@contextlib.contextmanager
def _workers(
    scenario: Scenario, loader: str, environment: Environment | None, shape: limits.Shape, check: bool
) -> Iterator[list[Worker]]:
    job = {
        "loader": loader,
        "files": [str(path) for path in files_of(scenario)],
        "tiny": str(checkpoints.make("tiny").files[0]),
        "use": scenario.use,
        # What maps files has read nothing yet; among small tensors its bare loop is what it is compared for.
        "touch": loader == "safetensors" and scenario.use != "copied" and scenario.checkpoint not in checkpoints.SMALL,
        "check": check,
        "first": scenario.first,
        "shape": asdict(shape),
    }
    variables = environment.variables() if environment else dict(os.environ)
    if scenario.limit is not None:
        variables["RUNAI_STREAMER_MEMORY_LIMIT"] = str(scenario.limit)
    workers: list[Worker] = []
    try:
        for rank in range(scenario.world):
            own = dict(variables)
            if scenario.world > 1:
                own |= {"LOCAL_WORLD_SIZE": str(scenario.world), "LOCAL_RANK": str(rank)}
            python = environment.python if environment else Path(sys.executable)
            workers.append(Worker([python, WORKER, json.dumps(job)], own))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def run(
    scenario: Scenario,
    loader: str,
    environment: Environment | None,
    shape: limits.Shape,
    *,
    check: bool = False,
    prime: bool = True,
) -> Sample:
    """Load once: `environment` is None for a machine's limit. Raises LoadError, or CacheStateError."""
    files = files_of(scenario)
    cache = scenario.cache
    if cache == "second":
        caches.drop(files)
        with _workers(scenario, loader, environment, shape, check) as (first,):
            first.answer()
            first.go()
            first.answer()
    with _workers(scenario, loader, environment, shape, check) as workers:
        ready = [worker.answer() for worker in workers]
        # Only now: importing takes seconds, and reads from the disk too.
        if cache == "cold":
            caches.drop(files)
        elif cache == "half":
            caches.halve(files)
        elif cache == "warm":
            caches.warm(files)
        if prime:
            # What one loader holds at most, and for several at once the page cache that they share.
            machine.prime_memory(data_bytes(scenario) * (1 if scenario.world == 1 else 2) + SPARE)
        caches.settle()
        before = caches.disk_bytes_read(files[0])
        for worker in workers:
            worker.go()
        # One after the other: with several, only the first one's memory is sampled from beginning to end.
        done = [worker.answer(watch=True) for worker in workers]
        after = caches.disk_bytes_read(files[0])
    firsts = [answer["first_s"] for answer in done if answer["first_s"] is not None]
    anon_mib = max(
        max(0, worker.peak_anon_kib - answer["anon_kib"]) / 1024 for worker, answer in zip(workers, ready, strict=True)
    )
    return Sample(
        nbytes=data_bytes(scenario),
        seconds=max(answer["seconds"] for answer in done),
        cpu_s=sum(answer["cpu_s"] for answer in done) / len(done),
        first_s=max(firsts) if firsts else None,
        # The kernel's mark was seen up to 220 MiB below what was sampled (runai, sync_buffered): take the larger.
        peak_mib=max(anon_mib, *(answer["peak_mib"] for answer in done)),
        anon_mib=anon_mib,
        disk_bytes=None if before is None or after is None else after - before,
        own_bytes=sum(answer["own_bytes"] for answer in done),
        import_s=max((answer["import_s"] for answer in ready if "import_s" in answer), default=None),
    )
