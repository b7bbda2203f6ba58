"""What `streamer.report` says of a load: of one that goes on, has ended, was given up or went wrong."""

import dataclasses
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from runai_model_streamer import FileChunks, FileStreamer, LoadReport, S3Credentials, SafetensorsStreamer
from runai_model_streamer.errors import NotFoundError, StreamerError
from runai_model_streamer.io.setup_time import SetupSeconds
from runai_model_streamer.origins import Origin
from runai_model_streamer.report.load_report import BytesFrom, ReaderSeconds, Settings
from runai_model_streamer.report.shared_load import SharedLoad
from tests.checkpoints import numbered, stored, write
from tests.servers import FaultServer, refuse

SIZES = [3_000_000] * 20
"""Several groups: the caller has been given some while others are on their way."""
ALL = sum(SIZES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "m.safetensors", numbered(SIZES))


def report_of(streamer: SafetensorsStreamer | FileStreamer) -> LoadReport:
    found = streamer.report
    assert found is not None
    return found


def loaded(*paths: Path, **arguments: Any) -> LoadReport:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **arguments)
        for _ in streamer.get_tensors():
            pass
    return report_of(streamer)


def parts_of(report: LoadReport) -> float:
    """The seconds of the caller's thread."""
    placed = report.make_seconds + report.place_seconds
    return report.plan_seconds + report.wait_seconds + placed + report.caller_seconds + report.close_seconds


# When there is one.


def test_every_origin_has_a_field_in_both_reports_and_no_field_is_left_over() -> None:
    fields = [origin.field for origin in Origin]
    assert sorted(field.name for field in dataclasses.fields(BytesFrom)) == sorted(fields)
    assert set(fields) < {field.name for field in dataclasses.fields(ReaderSeconds)}
    counts = {field: 10**index for index, field in enumerate(fields)}
    assert BytesFrom(**counts).all == 11111
    assert ReaderSeconds(**counts, cast=0.5).read == 11111


def test_before_the_first_load_it_says_so() -> None:
    with SafetensorsStreamer() as streamer, FileStreamer() as ranges:
        for report in (streamer.report, ranges.report):
            assert not report.complete
            assert report.tensors == 0
            assert report.verdict == "Nothing has been loaded yet."
            assert json.loads(report.to_json())["outcome"] == "not started"


def test_it_prints_as_lines_and_shows_as_a_table_in_notebooks(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        for _ in streamer.get_tensors():
            pass
        lines = str(streamer.report).splitlines()
    assert lines[0] == "outcome   complete"
    assert lines[-1] == f"verdict   {streamer.report.verdict}"
    assert len(lines) == 8
    assert max(map(len, lines[:-1])) < 100
    table = streamer.report._repr_html_()
    assert table.count("<tr>") == 8
    assert dataclasses.replace(streamer.report, error="<script>")._repr_html_().count("&lt;script&gt;") == 1


def test_a_set_up_that_took_a_part_of_the_time_has_a_row() -> None:
    first = LoadReport(seconds=2.0, setup=SetupSeconds(imports=0.5, compiling=0.001, connecting=0.25))
    assert "set-up    imports 0.50 s, connecting 0.25 s" in str(first).splitlines()
    assert "set-up" not in str(dataclasses.replace(first, seconds=100.0))


def test_a_shared_load_says_what_ranks_did_for_each_other_and_for_whom_this_one_waited() -> None:
    shared = SharedLoad(
        rank=1,
        ranks=(0, 1, 3),
        memory=True,
        device=False,
        bytes_read=2_000_000_000,
        bytes_received=0,
        bytes_taken=4_000_000_000,
        bytes_alone=0,
        ring_bytes=1,
        wait_seconds={0: 0.5, 3: 1.25},
    )
    assert str(LoadReport(shared=shared)).splitlines()[-3] == (
        "shared    with rank 0, 3 through memory: 2.00 GB read for all, 4.00 GB of others' reads taken; "
        "waited longest for rank 3 (1.25 thread-seconds)"
    )


def test_it_tells_how_far_the_load_is(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        before = report_of(streamer)
        tensors = streamer.get_tensors()
        for _ in range(10):
            next(tensors)
        during = report_of(streamer)
        for _ in tensors:
            pass
        after = report_of(streamer)
    assert (before.outcome, before.tensors, before.bytes, before.first_tensor_seconds) == ("running", 0, 0, None)
    assert (during.outcome, during.complete) == ("running", False)
    assert 0 < during.tensors < 10
    assert during.bytes == during.tensors * SIZES[0]
    assert (during.total_tensors, during.total_bytes) == (len(SIZES), ALL)
    assert during.bytes <= during.bytes_read
    assert (after.outcome, after.complete, after.tensors, after.bytes) == ("complete", True, len(SIZES), ALL)
    assert before.seconds < during.seconds < after.seconds


def test_it_stays_after_close_and_stands_still(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        for _ in streamer.get_tensors():
            pass
        complete = report_of(streamer)
    assert report_of(streamer) == complete
    assert report_of(streamer) == report_of(streamer)


def test_an_iterator_that_is_dropped_leaves_an_abandoned_load(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        tensors = streamer.get_tensors()
        next(tensors)
        del tensors
        dropped = report_of(streamer)
    assert (dropped.outcome, dropped.complete, dropped.error) == ("abandoned", False, None)
    assert report_of(streamer).outcome == "abandoned"


def test_a_load_that_is_closed_before_it_is_taken_is_abandoned(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
    assert (report_of(streamer).outcome, report_of(streamer).tensors) == ("abandoned", 0)


def test_an_error_in_reading_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")  # so that most is yet to be read
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        tensors = streamer.get_tensors()
        next(tensors)
        file.write_bytes(b"something else")
        with pytest.raises(StreamerError) as caught:
            for _ in tensors:
                pass
        failed = report_of(streamer)
    assert failed.outcome == "failed"
    assert failed.error == f"{type(caught.value).__name__}: {caught.value}"
    assert failed.total_bytes == ALL


def test_an_error_in_opening_is_told_and_nothing_of_the_load_before(file: Path, tmp_path: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        with pytest.raises(NotFoundError) as caught:
            streamer.stream_file(tmp_path / "missing")
        failed = report_of(streamer)
        streamer.stream_file(file)
        assert report_of(streamer).outcome == "running"
    assert (failed.outcome, failed.total_bytes, failed.reads) == ("failed", 0, 0)
    assert failed.error == f"NotFoundError: {caught.value}"


def test_the_callers_own_error_leaves_an_abandoned_load(file: Path) -> None:
    streamer = SafetensorsStreamer()

    def fail() -> None:
        with streamer:
            streamer.stream_file(file)
            for _ in streamer.get_tensors():
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert report_of(streamer).outcome == "abandoned"


def test_it_keeps_no_tensor(file: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        tensors = streamer.get_tensors()
        tensor = next(tensors)[1]
        witness = weakref.ref(tensor)
        report = report_of(streamer)
        del tensor
        assert witness() is None
        del tensors
    assert report.tensors == 0


# What it says.


def test_the_threads_seconds_add_up(file: Path) -> None:
    report = loaded(file)
    assert report.seconds == pytest.approx(parts_of(report))
    assert 0 < report.plan_seconds < report.first_tensor_seconds < report.seconds  # type: ignore[operator]
    assert report.reader_seconds.read > 0
    assert report.reader_seconds.all <= report.readers * report.seconds
    assert report.reader_cpu_seconds > 0
    assert report.process_cpu_seconds > 0


def test_reads_and_their_bytes_are_counted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIRECT_IO", "0")
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(2 << 20))
    report = loaded(file, file)
    assert (report.files, report.device, report.retries) == (2, "cpu", 0)
    assert report.bytes == 2 * ALL
    assert report.bytes_from == BytesFrom(buffered=report.bytes_read)
    assert report.ways == {"through the page cache: RUNAI_STREAMER_DIRECT_IO is 0": 2}
    assert f"files     2 through the page cache: RUNAI_STREAMER_DIRECT_IO is 0, {report.readers} readers" in str(report)
    assert 2 * ALL <= report.bytes_read <= 2.02 * ALL  # whole pages
    assert report.reads >= report.bytes_read / (2 << 20)
    assert report.gb_per_second == pytest.approx(report.bytes / report.seconds / 1e9)


def test_settings_are_those_in_force(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(file).settings
    assert 1 <= settings.first_concurrency <= settings.concurrency
    assert settings == Settings(concurrency=16, first_concurrency=settings.first_concurrency, chunk_bytesize=8 << 20)
    for name, value in {"CONCURRENCY": "3", "CHUNK_BYTESIZE": "5000000", "MEMORY_LIMIT": "0", "DIRECT_IO": "0"}.items():
        monkeypatch.setenv(f"RUNAI_STREAMER_{name}", value)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "0")
    monkeypatch.setenv("RUNAI_STREAMER_MAX_BANDWIDTH", "10000000000")
    report = loaded(file)
    assert report.settings == Settings(
        concurrency=3,
        first_concurrency=3,
        chunk_bytesize=5_001_216,
        memory_limit=SIZES[0],
        direct_io="0",
        gds="0",
        max_bandwidth=10_000_000_000,
    )
    assert 1 <= report.readers <= 3  # no more than CPUs while they copy from the page cache


def test_the_peak_is_within_the_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "10000000")
    assert SIZES[0] <= loaded(file).peak_memory <= 10_000_000


def test_a_load_without_tensors_has_a_report() -> None:
    report = loaded()
    assert (report.outcome, report.tensors, report.reads, report.readers) == ("complete", 0, 0, 0)
    assert report.bound_by == "too short"
    assert report.gb_per_second == 0.0


def test_tensors_that_are_chosen_are_those_that_count(file: Path) -> None:
    report = loaded(file, tensor_names=["t0", "t7", "t19"])
    assert (report.tensors, report.total_tensors) == (3, 3)
    assert (report.bytes, report.total_bytes) == (3 * SIZES[0], 3 * SIZES[0])


def test_parts_that_are_put_together_count_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {f"w{index}": stored("F32", (300, 50_000), index) for index in range(2)})
    report = loaded(path, select={"w0": (1, 0, 1000), "w1": (1, 49_000, 50_000)})
    assert (report.tensors, report.total_tensors, report.bytes) == (2, 2, 2 * 300 * 1000 * 4)
    assert report.place_seconds > 0
    assert report.seconds == pytest.approx(parts_of(report))


def test_casting_is_told_from_reading(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    path = write(tmp_path / "m", {f"w{index}": stored("F32", (1000, 1000), index) for index in range(5)})
    report = loaded(path, dtype=torch.bfloat16)
    assert report.settings.dtype == "torch.bfloat16"
    assert report.reader_seconds.cast > 0
    assert report.bytes == 5 * 4_000_000
    assert report.peak_memory >= 2_000_000


def test_ranges_have_a_report(file: Path) -> None:
    with FileStreamer() as streamer:
        chunks = [FileChunks(3, str(file), [0, 1000, 500], [1000, 10, 0])]
        streamer.stream_files(chunks, memory_limit=5000)
        for _ in streamer.get_chunks():
            pass
    report = report_of(streamer)
    assert (report.outcome, report.files, report.tensors, report.bytes) == ("complete", 1, 3, 1010)
    assert report.settings.memory_limit == 5000


def test_object_storage_is_told_with_its_retries_and_transport(
    monkeypatch: pytest.MonkeyPatch, file: Path, aws_files: None, transport: object
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    with FaultServer() as server, SafetensorsStreamer() as streamer:
        server.put("bucket", "model", file.read_bytes())
        credentials = S3Credentials("a key", "a secret", "a token", "us-east-1", server.endpoint)
        server.script(refuse(503, "SlowDown"), refuse(500, "InternalError"))
        streamer.stream_file("s3://bucket/model", credentials)
        server.script(refuse(503, "SlowDown"))
        for _ in streamer.get_tensors():
            pass
    report = report_of(streamer)
    assert 2 <= report.retries <= 3  # the load may have been through when the third was scripted
    assert report.bytes_from == BytesFrom(object_storage=ALL)
    assert report.settings.transport is not None
    assert (report.settings.first_concurrency, report.settings.concurrency) == (16, 400)
    assert report.connections[0][1] == 16  # a slow machine may try more before this small load ends
    for secret in ("a secret", "a token"):
        assert secret not in report.to_json()
        assert secret not in repr(report)


# As JSON, and in the log.


def test_the_json_is_all_of_it(file: Path) -> None:
    report = loaded(file)
    found = json.loads(report.to_json())
    assert found == report.as_dict()
    assert found.keys() - {field.name for field in dataclasses.fields(LoadReport)} == {"complete", "gb_per_second"}
    assert found["bytes_from"]["page_cache"] == report.bytes_from.page_cache
    assert found["settings"]["concurrency"] == 16
    assert "\n  " in report.to_json(indent=2)


def test_the_verdict_is_a_line_of_the_debug_log(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "runai_model_streamer.streamer"):
        report = loaded(file)
    ours = [record for record in caplog.records if record.name == "runai_model_streamer.streamer"]
    assert "Overall time to stream" in ours[-2].message
    assert (ours[-1].levelname, ours[-1].message) == ("DEBUG", f"[RunAI Streamer] {report.verdict}")
