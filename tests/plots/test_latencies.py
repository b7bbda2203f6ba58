"""The percentiles of reads, from traces."""

import json
from pathlib import Path

import pytest

from runai_model_streamer import plots
from runai_model_streamer.errors import ArgumentError
from tests.plots import figures


def write_trace(path: Path, *milliseconds: float, **arguments: object) -> Path:
    """A trace of reads that took this long, and of an event that is none."""
    entries = [
        {"name": "read", "cat": "read", "ph": "X", "ts": 0.0, "dur": each * 1e3, "args": {"origin": "disk"} | arguments}
        for each in milliseconds
    ]
    other = {"name": "close", "cat": "caller", "ph": "X", "ts": 0.0, "dur": 9e9, "args": {}}
    path.write_text(json.dumps({"traceEvents": [*entries, other]}))
    return path


def test_a_row_has_the_percentiles_of_its_reads_in_milliseconds(tmp_path: Path) -> None:
    near = write_trace(tmp_path / "near.json", *range(1, 102))
    far = write_trace(tmp_path / "far.json", 200.0)
    plot = plots.latencies({"disk": near, "S3": far}, title="Reads")
    assert figures.title(plot) == "Reads"
    assert figures.ticks(plot, "y") == ["disk", "S3"]
    assert figures.notes(plot) == ["51 / 91 / 100 ms, 101 reads", "200 / 200 / 200 ms, 1 reads"]
    assert figures.legend(plot) == ["p50", "p90", "p99"]
    assert plot.axes[0].get_xlabel() == "milliseconds"


def test_of_reads_with_casts_in_between_only_the_reading_counts(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "cast.json", 30.0, read_ms=2.0)
    assert figures.notes(plots.latencies({"cast": trace})) == ["2.00 / 2.00 / 2.00 ms, 1 reads"]


def test_nothing_to_plot_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to plot"):
        plots.latencies({})
    with pytest.raises(ArgumentError, match=r"empty\.json: has no read in it"):
        plots.latencies({"empty": write_trace(tmp_path / "empty.json")})
