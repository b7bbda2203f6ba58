"""A plot of how long single reads take, from traces."""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.figure import COLOURS, FAINT, TEXT, Plot, legend_below, name_rows, new_plot
from runai_model_streamer.plots.traces import parse_trace

_PERCENTILES: Final = {50: "o", 90: "s", 99: "D"}
"""Percentiles, with their markers."""

_MARGIN: Final = 1.3
"""Space left of the shortest duration, as a factor."""

_FILLED: Final = 0.62
"""Part of the width for durations; the text is right of them."""

_MANY: Final = 3.0
"""Decades from which only powers of ten fit below the axis."""


def latencies(traces: Mapping[str, str | os.PathLike[str]], title: str = "How long one read takes") -> Plot:
    """Plot the 50th, 90th and 99th percentile of the reads' durations in each trace, in milliseconds.

    The axis is logarithmic, since a read from far away may take a thousand times as long as one from memory.

    Args:
        traces: by the name of its row, a file written by RUNAI_STREAMER_TRACE.
        title: the title above the plot.

    Raises:
        ArgumentError: there is no trace, a file is not one, or it has no read.
        OSError: a file cannot be read.
    """
    if not traces:
        raise ArgumentError("there is nothing to plot", remedy="give at least one trace, by name", sep=": ")
    found = {name: parse_trace(trace, _reads) for name, trace in traces.items()}
    for name, trace in traces.items():
        if not found[name]:
            raise ArgumentError("has no read in it: nothing was loaded", where=os.fspath(trace))
    plot, axes = new_plot(title, "half, 90% and 99% of the reads took no longer than this", 1.6 + 0.42 * len(traces))
    handles: dict[str, Any] = {}
    spans = [np.percentile(milliseconds, list(_PERCENTILES)) for milliseconds in found.values()]
    for row, values in enumerate(spans):
        axes.plot(values[[0, -1]], [row, row], color=COLOURS[0], linewidth=2, zorder=1)
        for (percent, marker), value in zip(_PERCENTILES.items(), values, strict=True):
            style: dict[str, Any] = {"color": "white" if percent < 99 else COLOURS[0], "edgecolors": COLOURS[0]}
            handles[f"p{percent}"] = axes.scatter(
                [value], [row], s=42, marker=marker, linewidths=1.5, zorder=2, **style
            )
        axes.annotate(
            f"{' / '.join(map(_shown, values))} ms, {len(list(found.values())[row])} reads",
            (values[-1], row),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=TEXT,
            fontsize=9,
        )
    name_rows(axes, list(traces))
    axes.set_xscale("log")
    lowest = min(values[0] for values in spans) / _MARGIN
    decades = max(np.log10(max(values[-1] for values in spans) / lowest) / _FILLED, 1.0)
    axes.set_xlim(lowest, lowest * 10**decades)
    axes.set_xlabel("milliseconds", fontsize=10, color=TEXT)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if decades > _MANY else (1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    legend_below(plot, list(handles.values()), list(handles), columns=3)
    return plot


def _reads(entries: list[dict[str, Any]]) -> list[float]:
    """Return the milliseconds of each read. In one with casts in between, only the reading counts."""
    reads = [entry for entry in entries if entry["ph"] == "X" and entry["cat"] == "read"]
    return [float(entry["args"].get("read_ms", entry["dur"] / 1e3)) for entry in reads]


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"
