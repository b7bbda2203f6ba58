"""A trace's events are in the chart, each in its thread's row, at its time, in its colour."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgba_array

from runai_model_streamer import plots
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.kinds import ACTS, READS, REST
from runai_model_streamer.profiling import record
from tests.checkpoints import numbered, write
from tests.plots import figures


def event(thread: int, name: str, start: float, length: float, category: str = "caller", **args: Any) -> dict[str, Any]:
    """Milliseconds since some time."""
    times = {"ts": 5e9 + start * 1e3, "dur": length * 1e3}
    return {"name": name, "cat": category, "ph": "X", "pid": 1, "tid": thread, "args": args} | times


def named(thread: int, name: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}


def write_trace(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": entries, "displayTimeUnit": "ms"}))
    return path


def spans(plot: plots.Plot) -> list[tuple[float, float, float, str]]:
    """Row, beginning, end and colour of everything in the chart."""
    found = []
    for collection in plot.axes[0].collections:
        assert isinstance(collection, PolyCollection)
        for path in collection.get_paths():
            (left, bottom), (right, top) = path.get_extents().get_points()
            (colour,) = [to_hex(each).upper() for each in to_rgba_array(collection.get_facecolor())]
            found.append((round((bottom + top) / 2, 6), round(left, 6), round(right, 6), colour))
    return found


def test_events_are_where_the_trace_has_them(tmp_path: Path) -> None:
    path = write_trace(
        tmp_path,
        named(70, "MainThread"),
        named(71, "runai-reader-0"),
        event(70, "open and plan", 0, 2),
        event(70, "wait for bytes", 2, 8),
        event(71, "read", 3, 6, "read", origin="disk", bytes=4096),
        event(71, "wait for memory", 9, 1, "wait"),
    )
    plot = plots.timeline(path, title="A load")
    assert spans(plot) == [
        (0, 0, 2, ACTS["open and plan"].colour),
        (0, 2, 10, ACTS["wait for bytes"].colour),
        (1, 3, 9, READS["disk"].colour),
        (1, 9, 10, ACTS["wait for memory"].colour),
    ]
    assert figures.ticks(plot, "y") == ["caller", "reader-0"]
    assert figures.legend(plot) == ["read from disk", "wait for memory", "open and plan", "wait for bytes"]
    assert plot.axes[0].get_xlabel() == "milliseconds"
    assert figures.title(plot) == "A load"


def test_rows_are_in_the_order_of_the_readers_numbers(tmp_path: Path) -> None:
    threads = {71: "runai-reader-10", 72: "runai-reader-2", 70: "MainThread"}
    path = write_trace(
        tmp_path,
        *(named(thread, name) for thread, name in threads.items()),
        *(event(thread, "read", thread, 1, "read", origin="disk") for thread in (71, 72)),
        event(70, "close", 100, 1),
    )
    assert figures.ticks(plots.timeline(path), "y") == ["caller", "reader-2", "reader-10"]


def test_threads_that_only_rest_share_a_row(tmp_path: Path) -> None:
    rests = [event(thread, REST.label, 0, thread, "wait") for thread in (2, 3, 4)]
    path = write_trace(tmp_path, *rests, event(1, "read", 0, 1, "read", origin="disk"))
    plot = plots.timeline(path)
    assert figures.ticks(plot, "y") == ["thread 1", "3 others"]
    assert [(row, end) for row, _, end, colour in spans(plot) if colour == REST.colour] == [(1, 2), (1, 3), (1, 4)]


def test_reads_are_coloured_by_where_bytes_came_from(tmp_path: Path) -> None:
    path = write_trace(tmp_path, *(event(1, "read", 0, 1, "read", origin=origin) for origin in READS))
    assert [colour for *_, colour in spans(plots.timeline(path))] == [kind.colour for kind in READS.values()]
    assert len({kind.colour for kind in READS.values()}) == len(READS)


def test_what_it_does_not_know_is_shown_by_its_name(tmp_path: Path) -> None:
    path = write_trace(
        tmp_path,
        event(1, "a new thing", 0, 1),
        event(1, "read and cast", 1, 1, "read", origin="disk"),
        event(1, "close", 2, 1),
    )
    assert figures.legend(plots.timeline(path)) == ["close", "a new thing", "read and cast"]


def test_the_trace_of_a_load_has_known_events_only(tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", numbered([4 << 20] * 4))
    record(file, tmp_path / "trace.json", pause=0.01, concurrency=2, memory_limit=4 << 20)
    plot = plots.timeline(tmp_path / "trace.json")
    known = {kind.label for kind in (*READS.values(), *ACTS.values())}
    assert {"wait for memory", "caller's code"} <= set(figures.legend(plot)) <= known
    caller, *readers = figures.ticks(plot, "y")
    assert caller == "caller"
    assert set(readers) <= {"reader-0", "reader-1"}
    assert readers


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"traceEvents": [{}]}', '{"traceEvents": 3}'])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ArgumentError, match=r"other\.json: is not a trace .* RUNAI_STREAMER_TRACE"):
        plots.timeline(path)


def test_a_trace_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has no event in it"):
        plots.timeline(write_trace(tmp_path, named(1, "MainThread")))
