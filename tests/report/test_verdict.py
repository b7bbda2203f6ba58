"""What bound a load: of reports that are made up, and of loads that are held up by one thing each."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer import LoadReport, SafetensorsStreamer
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.origins import Origin
from runai_model_streamer.report.load_report import BytesFrom, ReaderSeconds, Settings
from runai_model_streamer.report.verdict import TOO_SHORT, Verdict, judge
from tests.checkpoints import numbered, write
from tests.servers import Exchange, FaultServer

MB = 10**6
SETTINGS = Settings(concurrency=16, chunk_bytesize=4 << 20)


def waiting(did: ReaderSeconds, **fields: Any) -> LoadReport:
    """A load of ten seconds, nine of which the caller's thread waited while its readers did this."""
    report = LoadReport(
        outcome="complete",
        files=2,
        total_tensors=100,
        bytes_read=5000 * MB,
        seconds=10.0,
        wait_seconds=9.0,
        make_seconds=0.5,
        caller_seconds=0.5,
        readers=16,
        reader_seconds=did,
        reader_seconds_in_wait=did,
        reader_delay_seconds=0.0,
        settings=SETTINGS,
    )
    return dataclasses.replace(report, **fields)


def settings(**changed: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **changed)


# Of reports that are made up.


def test_shares_are_of_all_seconds() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=100.0, memory=20.0, rest=1000.0), reader_cpu_seconds=25.0))
    assert verdict.shares == pytest.approx(
        {"storage": 0.5625, "network": 0, "cpu": 0.2375, "copy": 0, "memory": 0.15, "caller": 0.05, "setup": 0}
    )
    assert sum(verdict.shares.values()) == pytest.approx(1)


def test_waiting_for_files_is_the_storages() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=144.0), bytes_from=BytesFrom(disk=5000 * MB)))
    assert verdict.bound_by == "storage"
    assert verdict.sentence == (
        "Bound by the storage: 90% of 10.0 s went into waiting for files, read at 0.50 GB/s; if the disk has more to "
        "give, raise RUNAI_STREAMER_CONCURRENCY (now 16)."
    )


def test_what_is_imported_to_cast_is_told_from_opening_files() -> None:
    report = waiting(ReaderSeconds(), plan_seconds=9.0, plan_cpu_seconds=9.0, settings=settings(dtype="torch.bfloat16"))
    verdict = judge(dataclasses.replace(report, wait_seconds=0.5))
    assert verdict.bound_by == "cpu"
    assert "making ready to cast to torch.bfloat16" in verdict.sentence
    assert "once in a process" in verdict.sentence


def test_buffered_reads_that_are_slow_are_better_direct() -> None:
    verdict = judge(waiting(ReaderSeconds(buffered=144.0), bytes_from=BytesFrom(buffered=5000 * MB)))
    assert verdict.bound_by == "storage"
    assert "RUNAI_STREAMER_DIRECT_IO=1" in verdict.sentence


def test_waiting_for_objects_is_the_networks() -> None:
    verdict = judge(
        waiting(
            ReaderSeconds(object_storage=72.0), retries=3, readers=8, settings=settings(transport="curl", concurrency=8)
        )
    )
    assert verdict.bound_by == "network"
    assert verdict.sentence == (
        "Bound by the network: 90% of 10.0 s went into waiting for object storage, read at 0.50 GB/s in 8 requests at "
        "once, 3 requests made again; if the link has more to give, raise RUNAI_STREAMER_CONCURRENCY (now 8, try 16)."
    )


@pytest.mark.parametrize("origin", ["disk", "object_storage"])
def test_reads_at_the_bandwidth_that_is_set_are_held_there(origin: str) -> None:
    verdict = judge(waiting(ReaderSeconds(**{origin: 144.0}), settings=settings(max_bandwidth=500 * MB)))
    assert "RUNAI_STREAMER_MAX_BANDWIDTH=500000000" in verdict.sentence


def test_a_bandwidth_that_is_far_away_is_not_blamed() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=144.0), settings=settings(max_bandwidth=5000 * MB)))
    assert "MAX_BANDWIDTH" not in verdict.sentence


@pytest.mark.parametrize(
    "did",
    [
        ReaderSeconds(page_cache=18.0, rest=126.0),
        ReaderSeconds(cast=100.0, disk=44.0),
        ReaderSeconds(),  # the bytes were there, and the caller's thread had yet to be woken
    ],
)
def test_copies_from_memory_casts_and_no_work_at_all_are_the_cpus(did: ReaderSeconds) -> None:
    assert judge(waiting(did)).bound_by == "cpu"


@pytest.mark.parametrize("origin", ["buffered", "disk", "object_storage"])
def test_reads_that_run_or_are_ready_to_are_the_cpus(origin: str) -> None:
    busy = waiting(ReaderSeconds(**{origin: 18.0}), reader_cpu_seconds=8.0, reader_delay_seconds=7.0)
    assert judge(busy).bound_by == "cpu"
    idle = dataclasses.replace(busy, reader_cpu_seconds=2.0, reader_delay_seconds=1.0)
    assert judge(idle).bound_by in ("storage", "network")


def test_threads_that_wait_for_a_cpu_are_named() -> None:
    verdict = judge(waiting(ReaderSeconds(page_cache=18.0), reader_cpu_seconds=6.0, reader_delay_seconds=12.0))
    assert "waiting for a CPU (12.0 s in all threads" in verdict.sentence
    assert "give the process more CPUs" in verdict.sentence


@pytest.mark.parametrize(("count", "bound"), [(50_000 * MB, "cpu"), (500 * MB, "storage")])
def test_without_the_kernels_word_buffered_reads_go_by_their_speed(count: int, bound: str) -> None:
    did = ReaderSeconds(buffered=18.0)
    report = waiting(did, bytes_from=BytesFrom(buffered=count), reader_cpu_seconds=1.0, reader_delay_seconds=None)
    assert judge(report).bound_by == bound


def test_waiting_for_memory_is_the_limits() -> None:
    limited = waiting(ReaderSeconds(disk=20.0, memory=124.0), settings=settings(memory_limit=16 << 20))
    verdict = judge(limited)
    assert verdict.bound_by == "memory"
    assert f"RUNAI_STREAMER_MEMORY_LIMIT (now {16 << 20}) to {2 * 16 * (4 << 20)}" in verdict.sentence
    full = judge(waiting(ReaderSeconds(disk=20.0, memory=124.0)))
    assert full.bound_by == "memory"
    assert "drop tensors as they come" in full.sentence


def test_waiting_for_slots_is_the_copys() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=20.0, copy=124.0), device="cuda:0"))
    assert verdict.bound_by == "copy"
    assert verdict.sentence.startswith("Bound by the copy to cuda:0: ")


def test_waiting_for_slots_that_a_limit_keeps_below_the_readers_is_the_limits() -> None:
    report = waiting(ReaderSeconds(disk=20.0, copy=124.0), device="cuda:0", settings=settings(memory_limit=0))
    assert judge(report).bound_by == "memory"


@pytest.mark.parametrize(("device", "bound"), [("cpu", "cpu"), ("cuda:0", "copy"), ("mps", "copy")])
def test_placing_tensors_is_the_copys_where_they_leave_the_host(device: str, bound: str) -> None:
    report = LoadReport(seconds=10.0, place_seconds=8.0, wait_seconds=2.0, device=device)
    assert judge(report).bound_by == bound


def test_the_callers_code_is_the_callers_but_for_its_waits_for_a_cpu() -> None:
    report = LoadReport(seconds=10.0, caller_seconds=9.0, wait_seconds=1.0, caller_delay_seconds=1.0)
    assert judge(report).shares["caller"] == pytest.approx(0.8)
    assert judge(report).bound_by == "caller"
    assert judge(dataclasses.replace(report, caller_delay_seconds=8.0)).bound_by == "cpu"


def test_opening_is_the_networks_or_the_storages_or_the_cpus() -> None:
    report = LoadReport(seconds=10.0, plan_seconds=9.0, wait_seconds=1.0, files=100)
    assert judge(report).bound_by == "storage"
    assert judge(dataclasses.replace(report, plan_cpu_seconds=8.0)).bound_by == "cpu"
    remote = judge(dataclasses.replace(report, settings=settings(transport="curl")))
    assert remote.bound_by == "network"
    assert "most of it to open 100 files" in remote.sentence


def test_what_a_process_does_once_is_the_set_ups() -> None:
    report = LoadReport(seconds=2.0, plan_seconds=1.9, plan_cpu_seconds=1.7, setup_seconds=1.7, wait_seconds=0.1)
    verdict = judge(dataclasses.replace(report, settings=settings(transport="curl")))
    assert verdict.bound_by == "setup"
    assert verdict.shares["setup"] == pytest.approx(0.85)
    assert verdict.shares["network"] == pytest.approx(0.1)
    assert "went into importing boto3 and finding credentials" in verdict.sentence
    assert "more CPUs" not in verdict.sentence
    later = judge(dataclasses.replace(report, setup_seconds=0.0, plan_cpu_seconds=0.0))
    assert later.shares["setup"] == 0


def test_waiting_for_a_cpu_is_told_from_using_one() -> None:
    report = waiting(ReaderSeconds(page_cache=144.0), reader_cpu_seconds=2.0, process_cpu_seconds=4.0)
    sentence = judge(dataclasses.replace(report, reader_delay_seconds=100.0)).sentence
    assert "went into waiting for a CPU (100.0 s in all threads; 0.4 CPUs were in use by this process)" in sentence
    assert "work on the CPU" not in sentence


def test_what_other_ranks_send_is_bound_as_their_reads_are() -> None:
    shared = settings(ranks=2)
    files = waiting(ReaderSeconds(disk=40.0, other_ranks=100.0), settings=shared)
    assert judge(files).bound_by == "storage"
    objects = waiting(ReaderSeconds(object_storage=40.0, other_ranks=100.0), settings=settings(ranks=2, transport="x"))
    assert judge(objects).bound_by == "network"


def test_a_load_that_was_too_short_tells_nothing() -> None:
    verdict = judge(LoadReport(seconds=0.9 * TOO_SHORT, wait_seconds=0.9 * TOO_SHORT))
    assert verdict == Verdict("too short", "Too short to tell what bound it: 0.045 s in all.", {})


# Of loads that are held up. Reads wait outside of a CPU, so that a busy machine changes little.


@pytest.fixture
def slow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of a file waits as it would for a disk."""
    read_into = FileSource.read_into

    def slow(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        time.sleep(0.05)
        read_into(self, offset, buffer)
        return Origin.DISK

    monkeypatch.setattr(FileSource, "read_into", slow)


@pytest.fixture
def busy_cpus() -> Iterator[None]:
    """Every CPU has two other processes to run."""
    spin = "import sys; print(flush=True)\nwhile True: pass"
    count = 2 * len(os.sched_getaffinity(0))
    processes = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def verdict_of(*paths: str | Path, pause: float = 0.0) -> LoadReport:
    """What a load of these files was bound by."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        for _ in streamer.get_tensors():
            time.sleep(pause)
        return streamer.report


def test_a_slow_server_is_the_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, aws_files: None) -> None:
    def late(exchange: Exchange) -> None:
        time.sleep(0.1)
        exchange.server.answer(exchange)

    with FaultServer() as server:
        server.put("bucket", "model", write(tmp_path / "model", numbered([500_000])).read_bytes())
        server.choose = lambda _: late
        monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", server.endpoint)
        monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
        monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
        monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "2")
        report = verdict_of(*["s3://bucket/model"] * 20)
    assert report.bound_by == "network", report
    assert "RUNAI_STREAMER_CONCURRENCY (now 2, try 4)" in report.verdict


def test_a_slow_caller_is_the_callers(tmp_path: Path) -> None:
    report = verdict_of(write(tmp_path / "m", numbered([100_000] * 20)), pause=0.05)
    assert report.bound_by == "caller", report
    assert "the code that took the tensors" in report.verdict


def test_a_tiny_limit_is_the_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow_reads: None) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    report = verdict_of(write(tmp_path / "m", numbered([1_000_000] * 20)))
    assert report.bound_by == "memory", report
    assert "raise RUNAI_STREAMER_MEMORY_LIMIT (now 1000000)" in report.verdict


def test_a_slow_disk_is_the_storages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow_reads: None) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "2")
    report = verdict_of(write(tmp_path / "m", numbered([2 << 20] * 20)))
    assert report.bound_by == "storage", report
    assert "RUNAI_STREAMER_CONCURRENCY (now 2)" in report.verdict


def test_a_busy_cpu_is_the_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, busy_cpus: None) -> None:
    read_into = FileSource.read_into

    def cached(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        read_into(self, offset, buffer)
        return Origin.PAGE_CACHE  # on file systems, too, that do not tell

    monkeypatch.setattr(FileSource, "read_into", cached)
    path = write(tmp_path / "m", numbered([16 << 20] * 2))
    report = verdict_of(*[path] * 20)
    assert report.bound_by == "cpu", report
