"""Measured loads: which there are, in which order, with which settings; and recorded ones."""

import json
import os
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ArgumentError, NotFoundError
from runai_model_streamer.profiling import Measurement, S3Server, cached_fraction, measure, record
from runai_model_streamer.report.load_report import LoadReport
from tests.checkpoints import numbered, write
from tests.io.files.local_files import require_evicted, require_local_disk

SIZES = (3000, 100, 7000)
MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", numbered(SIZES))


def test_every_combination_is_loaded_as_often_as_asked(file: Path) -> None:
    found = measure(file, concurrency=[1, 2], chunk_bytesize=[2 * MIB, 4 * MIB], runs=3)
    assert [(each.settings["concurrency"], each.settings["chunk_bytesize"]) for each in found] == [
        (1, 2 * MIB),
        (1, 4 * MIB),
        (2, 2 * MIB),
        (2, 4 * MIB),
    ]
    for each in found:
        assert len(each.seconds) == len(each.reports) == len(each.rates) == 3
        assert each.size == sum(SIZES)
        assert all(report.complete and report.bytes == sum(SIZES) for report in each.reports)


def test_each_load_runs_with_its_settings_and_leaves_the_environment_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
    before = dict(os.environ)
    one, two = measure(file, concurrency=[1, 2], memory_limit=20_000, runs=1)
    assert (one.reports[0].settings.concurrency, two.reports[0].settings.concurrency) == (1, 2)
    assert one.reports[0].settings.memory_limit == 20_000
    (left,) = measure(file, runs=1)
    assert left.reports[0].settings.concurrency == 7
    assert os.environ == before


def test_combinations_take_turns_and_each_round_begins_with_another(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other.safetensors", numbered(SIZES))
    loaded: list[str] = []
    stream_files = SafetensorsStreamer.stream_files

    def noted(self: SafetensorsStreamer, paths: list[Path], **options: str) -> None:
        loaded.append(paths[0].stem)
        stream_files(self, paths, device=options["device"])

    # Nothing else tells of a warm-up load: it ends after one tensor, without a report or a line.
    monkeypatch.setattr(SafetensorsStreamer, "stream_files", noted)
    measure({"one": file, "two": [other]}, runs=3)
    uncounted, rounds = loaded[:2], loaded[2:]
    assert uncounted == ["model", "other"]
    assert rounds == ["model", "other", "other", "model", "model", "other"]


def test_warm_loads_are_from_the_page_cache_and_cold_ones_are_not(tmp_path: Path) -> None:
    require_local_disk(tmp_path)
    file = write(tmp_path / "model.safetensors", numbered([4 * MIB]))
    require_evicted(file)
    warm, cold = measure(file, cache=["warm", "cold"], runs=2)
    assert [each.settings["cache"] for each in (warm, cold)] == ["warm", "cold"]
    assert all(report.bytes_from.disk == 0 for report in warm.reports)
    assert all(report.bytes_from.page_cache == 0 for report in cold.reports)
    measure(file, runs=1)
    assert cached_fraction(file) == 1.0


def test_a_server_stands_for_its_objects(file: Path) -> None:
    with S3Server([file]) as server:
        disk, s3 = measure({"disk": file, "S3": server}, runs=1)
    assert [disk.settings["source"], s3.settings["source"]] == ["disk", "S3"]
    assert (disk.reports[0].bytes_from.object_storage, s3.reports[0].bytes_from.object_storage) == (0, sum(SIZES))


def test_gds_is_no_setting_of_loads_to_the_cpu(file: Path) -> None:
    (found,) = measure(file, gds=["0", "auto"], runs=1)
    assert "gds" not in found.settings


def test_a_load_that_fails_fails_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "missing", runs=1)
    with S3Server([]) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        with pytest.raises(NotFoundError):
            measure("s3://local/missing", runs=1)


@pytest.mark.parametrize(("concurrency", "runs"), [([], 1), ([1], 0)])
def test_nothing_to_measure_is_an_error(file: Path, concurrency: list[int], runs: int) -> None:
    with pytest.raises(ArgumentError, match="nothing to measure"):
        measure(file, concurrency=concurrency, runs=runs)


def test_rates_are_of_decimal_gigabytes_and_their_median_is_the_rate() -> None:
    found = Measurement({}, 10**9, (1.0, 0.5, 0.25), (LoadReport(peak_memory=3), LoadReport(peak_memory=5)))
    assert found.rates == (1.0, 2.0, 4.0)
    assert found.rate == 2.0
    assert found.peak_memory == 5


def test_a_recorded_load_writes_its_trace(file: Path, tmp_path: Path) -> None:
    report = record(file, tmp_path / "trace.json", concurrency=1)
    assert report.complete
    assert report.settings.concurrency == 1
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    assert sum(event.get("args", {}).get("bytes", 0) for event in events if event.get("cat") == "read") >= sum(SIZES)
    assert "RUNAI_STREAMER_TRACE" not in os.environ


def test_a_recorded_load_pauses_at_each_tensor(file: Path, tmp_path: Path) -> None:
    assert record(file, tmp_path / "trace.json", pause=0.05).caller_seconds >= 0.05 * len(SIZES)
