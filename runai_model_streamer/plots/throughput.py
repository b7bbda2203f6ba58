"""Plots of measured loads: throughput and memory against a setting, and a comparison of throughputs."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.figure import (
    COLOURS,
    LINES,
    MARKERS,
    TEXT,
    Plot,
    from_zero,
    legend_below,
    name_rows,
    new_plot,
)
from runai_model_streamer.profiling import Measurement

_AXES: Final = {
    "concurrency": "reads in flight at once (RUNAI_STREAMER_CONCURRENCY)",
    "chunk_bytesize": "bytes of one read (RUNAI_STREAMER_CHUNK_BYTESIZE)",
    "memory_limit": "bytes held at once, at most (RUNAI_STREAMER_MEMORY_LIMIT)",
}
"""Settings that can be the x axis of a curve."""

_LIMIT: Final = "the limit"

_SHORT: Final = {
    "concurrency": "concurrency {}",
    "chunk_bytesize": "chunks of {}",
    "memory_limit": "limit: {}",
    "direct_io": "direct I/O {}",
    "gds": "GDS {}",
    "source": "{}",
    "cache": "{}",
    "device": "{}",
    "loader": "{}",
}


def throughput(
    measured: Sequence[Measurement], title: str = "Throughput", limits: Mapping[str, float] | None = None
) -> Plot:
    """Plot GB/s against the setting that varies: concurrency, chunk size or memory limit.

    There is one line for each combination of the other settings that vary. Points are medians, and whiskers reach from
    the slowest load to the fastest. Values are in order and evenly spaced.

    Args:
        measured: the loads.
        title: the title above the plot.
        limits: what is drawn as a line, by name, in GB/s; see `profiling.measure_limit`.

    Raises:
        ArgumentError: none of the three settings varies, or several do.
    """
    note = f"{_runs(measured)}; whiskers from the slowest to the fastest"
    plot, axes, maximum = _curves(measured, title, note, lambda each: each.rates)
    maximum = max(maximum, _draw_limits(limits or {}, axes.axhline))
    from_zero(axes, "y", "GB/s", maximum)
    _legend(plot)
    return plot


def memory(measured: Sequence[Measurement], title: str = "Peak memory held") -> Plot:
    """Plot peak memory in MiB against the setting that varies, like `throughput`. A varying limit is drawn too.

    Raises:
        ArgumentError: see `throughput`.
    """
    note = "the most that any load held, as it counts against the limit"
    plot, axes, maximum = _curves(measured, title, note, lambda each: (each.peak_memory / 2**20,))
    limits: list[tuple[int, float]] = []
    if _axis(measured) == "memory_limit":
        values = _values(measured, "memory_limit")
        limits = [(place, value / 2**20) for place, value in enumerate(values) if value > 0]
    if limits:
        places, heights = zip(*limits, strict=True)
        axes.hlines(
            heights, [x - 0.35 for x in places], [x + 0.35 for x in places], color=TEXT, linewidth=2, label=_LIMIT
        )
    from_zero(axes, "y", "MiB", max(maximum, *(height for _, height in limits), 0.0))
    _legend(plot)
    return plot


def comparison(
    measured: Sequence[Measurement], title: str = "Throughput", limits: Mapping[str, float] | None = None
) -> Plot:
    """Plot GB/s as a bar for each measurement, named by the settings that vary. Dots are single loads.

    The median is next to its bar, with the CPU seconds for each GB.

    Args:
        measured: the loads.
        title: the title above the plot.
        limits: what is drawn as a line, by name, in GB/s; see `profiling.measure_limit`.

    Raises:
        ArgumentError: there is nothing to plot.
    """
    note = f"{_runs(measured)}; dots are single loads"
    varying = _varying(measured)
    names = [_name(each, varying) for each in measured]
    plot, axes = new_plot(title, note, 1.3 + 0.42 * len(measured))
    rates = [each.rate for each in measured]
    groups = list(dict.fromkeys(each.settings.get(varying[0]) if varying else None for each in measured))
    colours = [COLOURS[groups.index(each.settings.get(varying[0]) if varying else None) % 6] for each in measured]
    axes.barh(range(len(measured)), rates, height=0.62, color=colours)
    for row, each in enumerate(measured):
        axes.scatter(
            each.rates, [row] * len(each.rates), s=14, color="white", edgecolors=TEXT, linewidths=0.8, zorder=3
        )
        end = max(each.rates)
        cost = "" if each.cpu_per_gb is None else f", {each.cpu_per_gb:.2f} CPU s/GB"
        axes.annotate(
            f"{each.rate:.2f} GB/s{cost}",
            (end, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=TEXT,
            fontsize=9,
            # Over a limit's line.
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    name_rows(axes, names)
    fastest = max(max(each.rates) for each in measured)
    # Room for the text on the right of the longest bar.
    from_zero(axes, "x", "GB/s", max(fastest * 1.3, _draw_limits(limits or {}, axes.axvline)))
    _legend(plot, always=bool(limits))
    return plot


def _curves(
    measured: Sequence[Measurement],
    title: str,
    note: str,
    of: Callable[[Measurement], Sequence[float]],
) -> tuple[Plot, Axes, float]:
    """Return the plot, its axes, and the largest value in it."""
    along = _axis(measured)
    values = _values(measured, along)
    others = [name for name in _varying(measured) if name != along]
    lines: dict[str, list[Measurement]] = {}
    for each in measured:
        lines.setdefault(_name(each, others), []).append(each)
    plot, axes = new_plot(title, note, 3.6)
    maximum = 0.0
    for number, (name, line) in enumerate(lines.items()):
        line.sort(key=lambda each: values.index(int(each.settings[along])))
        places = [values.index(int(each.settings[along])) for each in line]
        spans = [sorted(of(each)) for each in line]
        middles = [statistics.median(span) for span in spans]
        errors = [
            [middle - span[0] for middle, span in zip(middles, spans, strict=True)],
            [span[-1] - middle for middle, span in zip(middles, spans, strict=True)],
        ]
        # Shift each line a little, so that their whiskers do not overlap.
        shift = 0.06 * (number - (len(lines) - 1) / 2)
        axes.errorbar(
            [place + shift for place in places],
            middles,
            yerr=errors if any(map(any, errors)) else None,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=6,
            capsize=3,
        )
        maximum = max(maximum, *(span[-1] for span in spans))
    axes.set_xticks(range(len(values)), [_value(along, value) for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel(_AXES[along], fontsize=10, color=TEXT)
    return plot, axes, maximum


def _draw_limits(limits: Mapping[str, float], line: Callable[..., object]) -> float:
    """Draw each limit with `line`, one of the axes' own methods. Return the highest; 0.0 without limits."""
    for (name, rate), style in zip(limits.items(), itertools.cycle(("--", ":", "-.")), strict=False):
        line(rate, color=TEXT, linestyle=style, linewidth=1.2, zorder=1.5, label=f"{name}: {rate:.2f} GB/s")
    return max(limits.values(), default=0.0)


def _legend(plot: Plot, *, always: bool = False) -> None:
    entries = list(zip(*plot.axes[0].get_legend_handles_labels(), strict=True))
    if not entries:
        return
    # matplotlib lists entries that are not curves first.
    handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] == _LIMIT), strict=True)
    if always or len(labels) > 1:
        legend_below(plot, handles, labels, columns=4)


def _varying(measured: Sequence[Measurement]) -> list[str]:
    """Return the settings that differ between measurements, in their given order."""
    names = dict.fromkeys(name for each in measured for name in each.settings)
    return [name for name in names if len({each.settings.get(name) for each in measured}) > 1]


def _axis(measured: Sequence[Measurement]) -> str:
    found = [name for name in _varying(measured) if name in _AXES]
    if len(found) != 1:
        raise ArgumentError(
            f"one of {', '.join(_AXES)} has to vary between the measurements, and here "
            f"{' and '.join(found) or 'none'} does",
            remedy="comparison() takes any",
        )
    return found[0]


def _values(measured: Sequence[Measurement], name: str) -> list[int]:
    """Return a setting's values in order. No limit counts as the highest limit."""
    found = {int(each.settings[name]) for each in measured if name in each.settings}
    return sorted(found, key=lambda value: (value < 0, value))


def _value(name: str, value: str | int) -> str:
    if name == "memory_limit" and int(value) <= 0:
        return "no limit" if int(value) < 0 else "0: largest\ntensor"
    if name in ("direct_io", "gds"):
        return {"0": "off", "1": "on"}.get(str(value), str(value))
    if name in ("memory_limit", "chunk_bytesize"):
        mib = int(value) / 2**20
        return f"{mib:g} MiB" if mib < 1024 else f"{mib / 1024:g} GiB"
    return str(value)


def _name(measurement: Measurement, varying: Sequence[str]) -> str:
    parts = [
        _SHORT.get(name, name + " {}").format(_value(name, measurement.settings[name]).replace("\n", " "))
        for name in varying
        if name in measurement.settings
    ]
    return ", ".join(parts) or "load"


def _runs(measured: Sequence[Measurement]) -> str:
    if not measured:
        raise ArgumentError("there is nothing to plot", remedy="measure something first", sep=": ")
    counts = sorted({len(each.seconds) for each in measured})
    return "one load each" if counts == [1] else f"medians of {' to '.join(map(str, counts))} loads"
