"""The bars of a load's seconds are its report's shares."""

import pytest

from runai_model_streamer import plots
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.kinds import BOUNDS
from runai_model_streamer.report.load_report import LoadReport
from runai_model_streamer.report.verdict import judge
from tests.plots import figures


def test_each_bar_is_as_long_as_its_part_of_the_seconds() -> None:
    reports = {
        "cold": LoadReport(seconds=2.0, bytes=10**9, bound_by="storage", shares={"storage": 0.75, "cpu": 0.25}),
        "slow caller": LoadReport(seconds=4.0, bytes=10**9, bound_by="caller", shares={"cpu": 0.0, "caller": 1.0}),
    }
    plot = plots.time_shares(reports)
    assert figures.bars(plot) == [
        (0, 0.0, 1.5, BOUNDS["storage"].colour),
        (0, 1.5, 0.5, BOUNDS["cpu"].colour),
        (1, 0.0, 4.0, BOUNDS["caller"].colour),
    ]
    assert figures.ticks(plot, "y") == ["cold", "slow caller"]
    assert figures.legend(plot) == ["storage", "CPU", "caller"]
    assert figures.notes(plot) == ["0.50 GB/s", "0.25 GB/s"]
    assert plot.axes[0].get_xlabel() == "seconds"


def test_a_load_too_short_to_tell_is_shown_as_such() -> None:
    plot = plots.time_shares({"tiny": LoadReport(seconds=0.01, bound_by="too short")})
    assert [bar[1:3] for bar in figures.bars(plot)] == [(0.0, 0.01)]
    assert figures.legend(plot) == ["too short to tell"]


def test_every_share_that_a_verdict_has_is_drawn() -> None:
    assert judge(LoadReport(seconds=1.0, caller_seconds=1.0)).shares.keys() == BOUNDS.keys()


def test_no_report_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="nothing to plot"):
        plots.time_shares({})
