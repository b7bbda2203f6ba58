"""`RUNAI_STREAMER_TRACE`: the events of a load, in Chrome's trace format."""

import json
import os
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.pipeline.tally.trace import trace_path
from tests.checkpoints import numbered, stored, write

SIZES = [3_000_000] * 20
VARIABLE = "RUNAI_STREAMER_TRACE"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "m.safetensors", numbered(SIZES))


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "trace.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def stream(*paths: Path, **arguments: Any) -> SafetensorsStreamer:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **arguments)
        for _ in streamer.get_tensors():
            pass
    return streamer


def events(trace: Path, phase: str = "X") -> list[dict[str, Any]]:
    """The events of one kind: "X" complete ones, "M" metadata."""
    return [event for event in json.loads(trace.read_bytes())["traceEvents"] if event["ph"] == phase]


def conforms(event: Mapping[str, Any]) -> None:
    """Has what the format says an event of its kind has, of the types that viewers take."""
    assert isinstance(event["name"], str)
    assert isinstance(event["pid"], int)
    assert isinstance(event["tid"], int)
    assert isinstance(event["args"], dict)
    if event["ph"] == "M":
        assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
        assert event["args"].keys() == {"sort_index" if event["name"] == "thread_sort_index" else "name"}
    else:
        assert event["ph"] == "X"
        assert isinstance(event["cat"], str)
        assert event["ts"] > 0
        assert event["dur"] >= 0


def test_it_is_a_document_of_the_format(file: Path, trace: Path) -> None:
    stream(file)
    document = json.loads(trace.read_bytes())
    assert document.keys() == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        conforms(event)
        assert event["pid"] == os.getpid()


def test_each_read_is_an_event_of_its_thread(file: Path, trace: Path) -> None:
    streamer = stream(file)
    report = streamer.report
    reads = [event for event in events(trace) if event["name"] == "read"]
    assert len(reads) == report.reads
    assert sum(read["args"]["bytes"] for read in reads) == report.bytes_read
    assert {read["args"]["file"] for read in reads} == {str(file)}
    assert {read["args"]["origin"] for read in reads} <= {"page cache", "buffered", "disk"}
    spans = sorted((read["args"]["offset"], read["args"]["bytes"]) for read in reads)
    assert len({offset for offset, _ in spans}) == len(spans)
    names = {event["tid"]: event["args"]["name"] for event in events(trace, "M") if event["name"] == "thread_name"}
    assert {names[read["tid"]].rstrip("0123456789") for read in reads} == {"runai-reader-"}
    assert names[threading.get_native_id()] == threading.current_thread().name
    assert sum(name.startswith("runai-reader-") for name in names.values()) == report.readers


def test_events_of_a_thread_do_not_overlap(file: Path, trace: Path) -> None:
    stream(file)
    found = events(trace)
    for thread in {event["tid"] for event in found}:
        spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in found if event["tid"] == thread)
        for (_, end), (start, _) in pairwise(spans):
            assert end <= start + 0.01  # microseconds, rounded to a thousandth


def test_the_callers_thread_shows_its_groups(file: Path, trace: Path) -> None:
    stream(file)
    groups = [event["args"] for event in events(trace) if event["name"] == "caller's code" and event["args"]]
    assert [group["group"] for group in groups] == list(range(len(groups)))
    assert sum(group["tensors"] for group in groups) == len(SIZES)
    assert sum(group["bytes"] for group in groups) == sum(SIZES)
    assert groups[0]["first tensor"] == "t0"


def test_waits_for_memory_are_events(file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        for _ in streamer.get_tensors():
            threading.Event().wait(0.01)
    assert "wait for memory" in {event["name"] for event in events(trace)}


def test_reads_that_are_cast_are_told_apart(tmp_path: Path, trace: Path) -> None:
    pytest.importorskip("numba")
    stream(write(tmp_path / "m", {"w": stored("F32", (1000, 1000))}), dtype=torch.bfloat16)
    reads = [event for event in events(trace) if event["name"] == "read and cast"]
    assert reads
    assert all(read["args"]["cast_ms"] > 0 < read["args"]["read_ms"] for read in reads)


def test_ranges_of_files_have_one_too(file: Path, trace: Path) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, str(file), [1000, 0], [10, 10])])
        assert len(list(streamer.get_chunks())) == 2
    assert {event["args"]["file"] for event in events(trace) if event["name"] == "read"} == {str(file)}


def test_a_load_that_is_given_up_writes_what_there_was(file: Path, trace: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        next(streamer.get_tensors())
    assert any(event["name"] == "read" for event in events(trace))


def test_each_load_writes_the_file_anew(file: Path, tmp_path: Path, trace: Path) -> None:
    stream(file)
    stream(write(tmp_path / "small", numbered([10])))
    assert {event["args"]["file"] for event in events(trace) if event["name"] == "read"} == {str(tmp_path / "small")}


def test_without_the_variable_nothing_is_written(file: Path, tmp_path: Path) -> None:
    stream(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", [".", "missing/trace.json"])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / name))
    with SafetensorsStreamer() as streamer, pytest.raises(ConfigError, match=rf"{VARIABLE}: .* cannot be written"):
        streamer.stream_file(tmp_path / "no such model")


def test_a_file_that_cannot_be_written_in_the_end_is_a_warning(
    file: Path, trace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        trace.unlink()
        trace.mkdir()
        assert len(list(streamer.get_tensors())) == len(SIZES)
    assert any(VARIABLE in record.message and record.levelname == "WARNING" for record in caplog.records)


def test_a_file_whose_name_is_no_unicode_is_named_as_unicode_can_have_it(tmp_path: Path, trace: Path) -> None:
    stream(write(tmp_path / os.fsdecode(b"n\xff"), numbered(SIZES)))
    assert {event["args"]["file"] for event in events(trace) if event["name"] == "read"} == {f"{tmp_path}/n\\udcff"}


def test_a_trace_that_cannot_be_made_is_a_warning(
    file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading.current_thread(), "name", "no Unicode: \udcff")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file)
        assert len(list(streamer.get_tensors())) == len(SIZES)
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith(f"{VARIABLE}: no trace of the load in {trace}: ")


def test_the_name_may_have_the_process_in_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trace-{pid}.json"))
    stream(file)
    assert events(tmp_path / f"trace-{os.getpid()}.json")


@pytest.mark.parametrize(
    ("text", "rank", "several", "expected"),
    [
        ("/a/load.json", None, False, "/a/load.json"),
        ("/a/load.json", 3, True, "/a/load.rank3.json"),
        ("/a/load.json", None, True, "/a/load.{pid}.json"),
        ("load", 0, False, "load.rank0"),
        ("{rank}/{pid}.json", 3, True, "3/{pid}.json"),
        ("{rank}.json", None, True, "0.json"),
        ("{pid}.json", 3, True, "{pid}.json"),
    ],
)
def test_processes_that_load_at_once_have_files_of_their_own(
    text: str, rank: int | None, several: bool, expected: str
) -> None:
    assert trace_path(text, rank, several) == expected.replace("{pid}", str(os.getpid()))
