"""A plot of the time of loads, divided by bottleneck."""

from collections.abc import Mapping
from typing import Final

from matplotlib.patches import Patch

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.figure import QUIET, TEXT, Plot, from_zero, legend_below, name_rows, new_plot
from runai_model_streamer.plots.kinds import BOUNDS
from runai_model_streamer.report.load_report import LoadReport

_SEEN: Final = 0.01
"""The smallest share in the legend. Smaller ones are not visible in the bar."""


def time_shares(reports: Mapping[str, LoadReport], title: str = "What the time went to") -> Plot:
    """Plot each load's seconds as a bar, divided by bottleneck (`LoadReport.shares`).

    A load that was too short for a verdict is one grey bar.

    Raises:
        ArgumentError: there is no report.
    """
    if not reports:
        raise ArgumentError("there is nothing to plot", remedy="give at least one report, by name", sep=": ")
    plot, axes = new_plot(title, "seconds of each load, by what it waited for", 1.6 + 0.42 * len(reports))
    for row, report in enumerate(reports.values()):
        left = 0.0
        for name, kind in BOUNDS.items():
            seconds = report.shares.get(name, 0.0) * report.seconds
            if seconds > 0:
                axes.barh(row, seconds, left=left, height=0.62, color=kind.colour, edgecolor="white", linewidth=0.5)
                left += seconds
        if report.bound_by == "too short":
            axes.barh(row, report.seconds, height=0.62, color="#DDDDDD", hatch="///", edgecolor=QUIET)
        axes.annotate(
            f"{report.gb_per_second:.2f} GB/s",
            (report.seconds, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=TEXT,
        )
    name_rows(axes, list(reports))
    from_zero(axes, "x", "seconds", max(report.seconds for report in reports.values()))
    legend = {
        kind.label: Patch(color=kind.colour)
        for name, kind in BOUNDS.items()
        if any(report.shares.get(name, 0.0) >= _SEEN for report in reports.values())
    }
    if any(report.bound_by == "too short" for report in reports.values()):
        legend["too short to tell"] = Patch(facecolor="#DDDDDD", hatch="///", edgecolor=QUIET)
    legend_below(plot, list(legend.values()), list(legend), columns=4)
    return plot
