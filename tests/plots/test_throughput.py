"""Measurements as they were given: in curves, in bars, and with the memory that loads held."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from runai_model_streamer import plots
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.profiling import Measurement
from runai_model_streamer.report.load_report import LoadReport
from tests.plots import figures

MIB = 1 << 20
TEXT = "plain reads of this machine past its page cache, 30 ms and 80 MB/s for each one of them"


def measured(*rates: float, peak: int = 0, **settings: str | int) -> Measurement:
    """Loads at these GB/s, of 2 GB each."""
    reports = tuple(LoadReport(peak_memory=peak) for _ in rates)
    return Measurement(settings, 2 * 10**9, tuple(2 / rate for rate in rates), reports)


def test_a_curve_has_the_medians_and_whiskers_to_the_slowest_and_the_fastest() -> None:
    plot = plots.throughput([measured(1, 4, 2, concurrency=1), measured(5, 3, concurrency=2)])
    (line,) = figures.curves(plot).values()
    assert line == [pytest.approx((1, 2, 4)), pytest.approx((3, 4, 5))]
    assert figures.ticks(plot, "x") == ["1", "2"]
    assert plot.axes[0].get_ylabel() == "GB/s"
    assert "RUNAI_STREAMER_CONCURRENCY" in plot.axes[0].get_xlabel()
    assert figures.legend(plot) == []


def test_values_begin_at_zero() -> None:
    loads = [measured(100, concurrency=1), measured(101, concurrency=2)]
    assert plots.throughput(loads).axes[0].get_ylim()[0] == 0
    assert plots.comparison(loads).axes[0].get_xlim()[0] == 0
    assert plots.memory(loads).axes[0].get_ylim()[0] == 0


def test_whatever_else_varies_is_a_line_of_its_own_which_the_legend_names() -> None:
    rates = {("warm", 1): 5.0, ("cold", 1): 1.0, ("warm", 4): 6.0, ("cold", 4): 2.0}
    loads = [measured(rate, cache=cache, concurrency=count, device="cpu") for (cache, count), rate in rates.items()]
    plot = plots.throughput(loads, title="Both")
    assert {name: [point[1] for point in line] for name, line in figures.curves(plot).items()} == {
        "warm": pytest.approx([5, 6]),
        "cold": pytest.approx([1, 2]),
    }
    assert figures.legend(plot) == ["warm", "cold"]
    assert figures.title(plot) == "Both"


def test_limits_are_in_order_with_no_limit_last() -> None:
    loads = [measured(rate, memory_limit=limit) for rate, limit in ((4, -1), (3, 2048 * MIB), (1, 0), (2, 64 * MIB))]
    plot = plots.throughput(loads)
    assert figures.ticks(plot, "x") == ["0: largest\ntensor", "64 MiB", "2 GiB", "no limit"]
    assert [point[1] for point in figures.curves(plot)["load"]] == pytest.approx([1, 2, 3, 4])


def test_peak_memory_is_drawn_with_the_limit() -> None:
    peaks = {0: 8 * MIB, 64 * MIB: 60 * MIB, -1: 200 * MIB}
    plot = plots.memory([measured(1, 2, peak=peak, memory_limit=limit) for limit, peak in peaks.items()])
    assert [point[1] for point in figures.curves(plot)["load"]] == [8, 60, 200]
    limits = plot.axes[0].collections[-1]
    assert isinstance(limits, LineCollection)
    assert [segment.tolist() for segment in limits.get_segments()] == [[[0.65, 64], [1.35, 64]]]
    assert plot.axes[0].get_ylabel() == "MiB"


@pytest.mark.parametrize(
    "settings",
    [
        [{"cache": "warm"}, {"cache": "cold"}],
        [{"concurrency": 1, "memory_limit": 0}, {"concurrency": 2, "memory_limit": -1}],
    ],
)
def test_a_curve_needs_one_setting_to_run_along(settings: list[dict[str, str | int]]) -> None:
    loads = [Measurement(each, 1, (1.0,), (LoadReport(),)) for each in settings]
    with pytest.raises(ArgumentError, match=r"one of concurrency, chunk_bytesize, memory_limit has to vary"):
        plots.throughput(loads)


def test_bars_have_the_medians_and_dots_each_load() -> None:
    loads = [measured(4, 6, 5, source="disk", concurrency=8), measured(1, 3, 1, source="S3", concurrency=8)]
    plot = plots.comparison(loads)
    assert [(row, length) for row, _, length, _ in figures.bars(plot)] == [(0, pytest.approx(5)), (1, 1)]
    assert figures.ticks(plot, "y") == ["disk", "S3"]
    assert figures.notes(plot) == ["5.00 GB/s", "1.00 GB/s"]
    dots = [collection.get_offsets().tolist() for collection in plot.axes[0].collections]  # type: ignore[union-attr]
    assert dots == [
        [pytest.approx([4, 0]), pytest.approx([6, 0]), pytest.approx([5, 0])],
        [pytest.approx([1, 1]), pytest.approx([3, 1]), pytest.approx([1, 1])],
    ]


def test_bars_that_differ_in_what_was_given_first_differ_in_colour() -> None:
    loads = [measured(1, cache=cache, direct_io=direct) for cache in ("warm", "cold") for direct in ("auto", "0")]
    plot = plots.comparison(loads)
    one, two, three, four = (colour for _, _, _, colour in figures.bars(plot))
    assert one == two != three == four
    assert figures.ticks(plot, "y") == [
        "warm, direct I/O auto",
        "warm, direct I/O off",
        "cold, direct I/O auto",
        "cold, direct I/O off",
    ]


def test_the_cpu_seconds_of_a_gb_are_next_to_the_bar() -> None:
    load = Measurement({}, 2 * 10**9, (1.0, 2.0), (), (0.5, 1.0))
    assert figures.notes(plots.comparison([load])) == ["1.50 GB/s, 0.38 CPU s/GB"]


@pytest.mark.parametrize("draw", [plots.throughput, plots.comparison])
def test_limits_are_lines_within_the_plot_that_the_legend_names(draw: Callable[..., plots.Plot]) -> None:
    limits = {"plain reads": 12.5, "a request": 3.0}
    plot = draw([measured(1, 2, concurrency=1), measured(3, concurrency=2)], limits=limits)
    axes = plot.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines if "GB/s" in str(line.get_label())}
    assert list(lines) == ["plain reads: 12.50 GB/s", "a request: 3.00 GB/s"]
    assert set(lines) <= set(figures.legend(plot))
    assert max(axes.get_xlim()[1], axes.get_ylim()[1]) > 12.5
    values = [sorted({*np.ravel(line.get_xdata()), *np.ravel(line.get_ydata())}) for line in lines.values()]
    assert values == [[0, 1, 12.5], [0, 1, 3.0]]


@pytest.mark.parametrize("letters", [1, 10, 30, 45, 90])
def test_a_legend_of_any_names_is_within_the_plot(letters: int) -> None:
    loads = [measured(1, source=name + TEXT[:letters], concurrency=count) for name in "abc" for count in (1, 2)]
    plot = plots.throughput(loads)
    plot.savefig(io.BytesIO(), format="png")
    (legend,) = plot.legends
    assert legend.get_window_extent().x1 <= plot.bbox.x1


def test_the_number_of_loads_is_said() -> None:
    plot = plots.comparison([measured(1, 2, 3, cache="warm"), measured(1, 2, 3, cache="cold")])
    assert plot.axes[0].get_title(loc="left") == "medians of 3 loads; dots are single loads"
    single = plots.comparison([measured(1, cache="warm")])
    assert single.axes[0].get_title(loc="left") == "one load each; dots are single loads"


@pytest.mark.parametrize("draw", [plots.throughput, plots.memory, plots.comparison])
def test_nothing_measured_is_an_error(draw: Callable[[Sequence[Measurement]], plots.Plot]) -> None:
    with pytest.raises(ArgumentError):
        draw([])
