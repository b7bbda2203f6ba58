"""What bound a load: of reports that are made up, and of loads that are held up by one thing each."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer import LoadReport, S3Credentials, SafetensorsStreamer
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.setup_time import SetupSeconds
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, Step, plan_groups
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.report.load_report import BytesFrom, Held, ReaderSeconds, Settings
from runai_model_streamer.report.make import Request, make_report
from runai_model_streamer.report.verdict import TOO_SHORT, Verdict, judge
from runai_model_streamer.threads.times import ThreadTimes
from tests.checkpoints import infos, numbered, write
from tests.pipeline.tally.clocks import Clock
from tests.servers import FaultServer

MB = 10**6
STAGES = ("imports", "compiling", "credentials", "connecting")
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
        process_cpu_seconds=20.0,
        settings=SETTINGS,
    )
    return dataclasses.replace(report, **fields)


def settings(**changed: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **changed)


# Of reports that are made up.


def test_shares_are_of_all_seconds() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=100.0, memory=20.0, rest=1000.0), reader_cpu_seconds=25.0))
    assert verdict.shares == pytest.approx(
        {"storage": 0.5625, "network": 0, "cpu": 0.2375, "copy": 0, "memory": 0.15, "caller": 0.05}
        | dict.fromkeys(STAGES, 0)
    )
    assert sum(verdict.shares.values()) == pytest.approx(1)


def test_waiting_for_files_is_the_storages() -> None:
    verdict = judge(waiting(ReaderSeconds(disk=144.0), bytes_from=BytesFrom(disk=5000 * MB)))
    assert verdict.bound_by == "storage"
    assert verdict.sentence == (
        "Bound by the storage: 90% of 10.0 s went into waiting for files, read at 500 MB/s; if the disk has more to "
        "give, raise RUNAI_STREAMER_CONCURRENCY (now 16)."
    )


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
        "Bound by the network: 90% of 10.0 s went into waiting for object storage, read at 500 MB/s over 8 "
        "connections, 3 requests made again; 8 connections were used: a longer load finds out whether more are faster."
    )


@pytest.mark.parametrize(
    ("held_by", "advice"),
    [
        ("maximum", "set RUNAI_STREAMER_CONNECTIONS to more than 64"),
        ("no faster", "more connections than 64 were tried, and no faster"),
        ("refused", "the store refused requests or did not answer, so that there were 64 connections at the end"),
        ("cpu", "its 64 connections kept the CPUs busy"),
        ("idle", "its 64 connections had pauses, waiting for memory or for the caller"),
    ],
)
def test_what_kept_a_load_from_more_connections_is_said(held_by: Held, advice: str) -> None:
    connections = ((0.0, 16), (0.3, 32), (1.0, 64))
    verdict = judge(
        waiting(
            ReaderSeconds(object_storage=72.0),
            readers=64,
            settings=settings(transport="curl", concurrency=256),
            connections=connections,
            connections_held_by=held_by,
        )
    )
    assert verdict.bound_by == "network"
    assert " over 64 connections; " in verdict.sentence
    assert advice in verdict.sentence


def test_connections_that_were_given_back_are_told_apart_from_those_at_the_end() -> None:
    verdict = judge(
        waiting(
            ReaderSeconds(object_storage=72.0),
            readers=64,
            settings=settings(transport="curl", concurrency=256),
            connections=((0.0, 16), (0.3, 64), (1.0, 16)),
            connections_held_by="idle",
        )
    )
    assert " over up to 64 connections, 16 at the end; its 16 connections had pauses" in verdict.sentence


@pytest.mark.parametrize("origin", ["disk", "object_storage"])
def test_reads_at_the_bandwidth_that_is_set_are_held_there(origin: str) -> None:
    verdict = judge(waiting(ReaderSeconds(**{origin: 144.0}), settings=settings(max_bandwidth=500 * MB)))
    assert "RUNAI_STREAMER_MAX_BANDWIDTH=500MB" in verdict.sentence


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


def test_without_the_kernels_word_copies_are_the_cpus_although_few_were_in_use() -> None:
    report = waiting(ReaderSeconds(page_cache=18.0), process_cpu_seconds=1.0, reader_delay_seconds=None)
    assert judge(report).bound_by == "cpu"
    assert judge(dataclasses.replace(report, reader_delay_seconds=0.0)).bound_by == "storage"


def test_waiting_for_memory_is_the_limits() -> None:
    limited = waiting(ReaderSeconds(disk=20.0, memory=124.0), settings=settings(memory_limit=16 << 20))
    verdict = judge(limited)
    assert verdict.bound_by == "memory"
    assert "RUNAI_STREAMER_MEMORY_LIMIT (now 16MiB) to 128MiB" in verdict.sentence
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
    report = LoadReport(seconds=10.0, place_seconds=8.0, wait_seconds=2.0, device=device, process_cpu_seconds=9.0)
    assert judge(report).bound_by == bound


def test_the_callers_code_is_the_callers_but_for_its_waits_for_a_cpu() -> None:
    report = LoadReport(seconds=10.0, caller_seconds=9.0, wait_seconds=1.0, caller_delay_seconds=1.0)
    assert judge(report).shares["caller"] == pytest.approx(0.8)
    assert judge(report).bound_by == "caller"
    assert judge(dataclasses.replace(report, caller_delay_seconds=8.0)).bound_by == "cpu"


def test_opening_is_the_networks_or_the_storages_or_the_cpus() -> None:
    report = LoadReport(seconds=10.0, plan_seconds=9.0, wait_seconds=1.0, files=100)
    assert judge(report).bound_by == "storage"
    assert judge(dataclasses.replace(report, plan_cpu_seconds=8.0, process_cpu_seconds=8.0)).bound_by == "cpu"
    remote = judge(dataclasses.replace(report, settings=settings(transport="curl")))
    assert remote.bound_by == "network"
    assert "most of it to open 100 files" in remote.sentence


def first_load(setup: SetupSeconds, **fields: Any) -> LoadReport:
    """A load of two seconds, most of which went by before it could read, on a machine that is busy with others."""
    report = LoadReport(
        seconds=2.0,
        plan_seconds=1.9,
        plan_cpu_seconds=0.3,
        wait_seconds=0.1,
        setup=setup,
        process_cpu_seconds=0.8,
        reader_delay_seconds=1.0,
        caller_delay_seconds=0.5,
        settings=settings(transport="curl", dtype="torch.float16"),
    )
    return dataclasses.replace(report, **fields)


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("imports", "a later load in the same process imports nothing"),
        ("compiling", "NUMBA_CACHE_DIR"),
        ("credentials", "AWS_EC2_METADATA_DISABLED=true"),
        ("connecting", "name resolution, proxies and TLS"),
    ],
)
def test_a_stage_of_the_set_up_is_told_by_its_name_and_no_cpu_is_blamed(stage: str, advice: str) -> None:
    verdict = judge(first_load(SetupSeconds(**{stage: 1.7})))
    assert verdict.bound_by == stage
    assert verdict.sentence.startswith(
        f"Bound by {stage}: 85% of 2.0 s went by before bytes could come ({stage} 1.70 s); "
    )
    assert advice in verdict.sentence
    assert verdict.shares[stage] == pytest.approx(0.85)
    assert "CPU" not in verdict.sentence


def test_stages_of_the_set_up_that_took_most_together_are_the_verdict() -> None:
    setup = SetupSeconds(imports=0.45, credentials=0.4, connecting=0.35)
    verdict = judge(first_load(setup, plan_cpu_seconds=1.1))
    assert verdict.shares["network"] < verdict.shares["imports"] < verdict.shares["cpu"] + verdict.shares["imports"]
    assert verdict.bound_by == "imports"
    assert "60% of 2.0 s" in verdict.sentence
    assert "(imports 0.45 s, credentials 0.40 s, connecting 0.35 s)" in verdict.sentence


def test_compiling_is_named_only_where_it_took_time() -> None:
    assert "compil" not in judge(first_load(SetupSeconds(imports=1.0, connecting=0.5))).sentence


def test_a_set_up_that_lasts_into_the_wait_counts_no_longer_than_both() -> None:
    report = first_load(SetupSeconds(imports=1.95), plan_cpu_seconds=0.0)
    assert judge(report).shares["imports"] == pytest.approx(1.95 / 2)
    longer = judge(dataclasses.replace(report, setup=SetupSeconds(imports=5.0)))
    assert longer.shares["imports"] == pytest.approx(1.0)
    assert sum(longer.shares.values()) == pytest.approx(1.0)


def test_readers_that_connect_are_told_from_readers_that_read() -> None:
    did = ReaderSeconds(object_storage=72.0)
    report = waiting(did, readers=8, reader_connect_seconds=54.0, settings=settings(transport="curl", concurrency=8))
    verdict = judge(report)
    assert verdict.bound_by == "connecting"
    assert verdict.shares["connecting"] == pytest.approx(0.9 * 0.75)
    assert "readers connected for 54.0 s of their 72.0 s" in verdict.sentence
    assert "RUNAI_STREAMER_CONNECTIONS, now up to 8" in verdict.sentence


SECONDS = st.floats(0, 20)


@given(
    did=st.builds(ReaderSeconds, page_cache=SECONDS, cast=SECONDS, disk=SECONDS, object_storage=SECONDS, rest=SECONDS),
    cpu=SECONDS,
    delay=SECONDS,
    wait=st.floats(0.1, 20),
    other=SECONDS,
    transport=st.sampled_from([None, "curl"]),
)
def test_time_is_the_cpus_only_as_far_as_cpus_were_in_use(
    did: ReaderSeconds, cpu: float, delay: float, wait: float, other: float, transport: str | None
) -> None:
    report = LoadReport(
        seconds=wait + 4 * other,
        wait_seconds=wait,
        plan_seconds=other,
        plan_cpu_seconds=min(other, cpu),
        make_seconds=other,
        place_seconds=other,
        close_seconds=other,
        readers=16,
        reader_seconds=did,
        reader_seconds_in_wait=did,
        reader_cpu_seconds=cpu,
        reader_delay_seconds=delay,
        process_cpu_seconds=cpu,
        settings=settings(transport=transport),
    )
    shares = judge(report).shares
    assert shares["cpu"] * report.seconds <= cpu + delay + 1e-9
    assert sum(shares.values()) == pytest.approx(1)


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


# Of loads that are held up by one thing each, as a tally counts them on clocks that the test moves.

MIB = 1 << 20


class HeldUp:
    """A load of 20 groups of 16 MiB by one reader, in which one thing takes time."""

    def __init__(self, concurrency: int = 1, limit: int | None = None, transport: str | None = None) -> None:
        self.clock = Clock()
        self.leasing = WaitClock()
        self.tally = Tally(timer=self.clock)
        self.tally.concurrency, self.tally.limit, self.tally.chunk = concurrency, limit, 8 * MIB
        self.tally.transport = transport
        sizes = [16 * MIB] * 20
        planned = [PlannedFile(sum(sizes), SourceKind.FILE, 1, 8 * MIB, infos(sizes, 0))]
        self.groups = list(plan_groups(planned, limit=sizes[0]))
        self.reader = self.tally.reader(self.leasing)

    def report(
        self,
        *,
        read: float = 0.0,
        origin: Origin = Origin.DISK,
        memory: float = 0.0,
        caller: float = 0.0,
        cpu: float = 0.0,
        delay: float = 0.0,
    ) -> LoadReport:
        """Of each group, the seconds of its read, of the wait for memory before it, and of the caller's code after it.

        `cpu` and `delay` are those of every thread in all.
        """
        tally, clock = self.tally, self.clock
        tally.plan(self.groups)
        tally.start()
        self.reader.begin(None)
        for group in self.groups:
            tally.ask()
            tally.wait()
            self.reader.mark()
            self.leasing.start(clock.now)
            clock.now += memory
            self.leasing.stop(clock.now)
            self.reader.took()
            clock.now += read
            self.reader.read(0, Step(0, 0, group.payload, 0), Reading(origin, read), None)
            tally.landed()
            tally.made(group, 1)
            clock.now += caller
            tally.give(group)
        clock.process_cpu, clock.threads = cpu, ThreadTimes(cpu, delay)
        self.reader.end()
        tally.end("complete")
        return make_report(tally, Request(LoadConfig(), files=1, tensors=20, bytes=20 * 16 * MIB))


def test_a_slow_server_is_the_networks() -> None:
    load = HeldUp(concurrency=2, transport="curl")
    load.tally.connections, load.tally.held_by = [(load.tally.started + 1, 2)], "maximum"
    report = load.report(read=0.1, origin=Origin.OBJECT, cpu=0.2)
    assert report.bound_by == "network", report
    assert report.connections == ((1.0, 2),)
    assert "set RUNAI_STREAMER_CONNECTIONS to more than 2" in report.verdict


def test_a_slow_caller_is_the_callers() -> None:
    report = HeldUp().report(read=0.001, caller=0.05, cpu=0.1)
    assert report.bound_by == "caller", report
    assert "the code that took the tensors" in report.verdict


def test_a_tiny_limit_is_the_limits() -> None:
    report = HeldUp(limit=1_000_000).report(read=0.01, memory=0.05, cpu=0.1)
    assert report.bound_by == "memory", report
    assert "raise RUNAI_STREAMER_MEMORY_LIMIT (now 1MB)" in report.verdict


def test_a_slow_disk_is_the_storages() -> None:
    report = HeldUp(concurrency=2).report(read=0.05, cpu=0.1)
    assert report.bound_by == "storage", report
    assert "RUNAI_STREAMER_CONCURRENCY (now 2)" in report.verdict


@pytest.mark.parametrize("origin", [Origin.PAGE_CACHE, Origin.DISK])
def test_a_busy_cpu_is_the_cpus(origin: Origin) -> None:
    report = HeldUp().report(read=0.05, origin=origin, cpu=0.3, delay=0.7)
    assert report.bound_by == "cpu", report
    assert "waiting for a CPU (1.4 s in all threads; 0.3 CPUs were in use by this process)" in report.verdict


# Of loads that are real: what is counted, not how long it took.


def test_a_real_load_counts_its_callers_time_and_its_reads(tmp_path: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(write(tmp_path / "m", numbered([100_000] * 5)))
        for _ in streamer.get_tensors():
            time.sleep(0.01)
    report = streamer.report
    assert report.caller_seconds >= 0.05
    assert report.reader_seconds.read > 0
    assert report.setup == SetupSeconds()


@pytest.mark.usefixtures("aws_files", "transport")
def test_a_real_load_of_an_object_counts_its_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FaultServer() as server:
        server.put("bucket", "model", write(tmp_path / "model", numbered([500_000])).read_bytes())
        monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
        credentials = S3Credentials("a key", "a secret", endpoint=server.endpoint)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["s3://bucket/model"] * 3, credentials)
            for _ in streamer.get_tensors():
                pass
    setup = streamer.report.setup
    assert setup.imports > 0
    assert setup.connecting > 0
    assert setup.compiling == 0
    assert setup.all < streamer.report.plan_seconds
