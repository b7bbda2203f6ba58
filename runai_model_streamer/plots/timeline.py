"""A Gantt chart of a load's trace."""

import os
from typing import Any, Final, NamedTuple

from matplotlib.patches import Patch

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.plots.figure import QUIET, Plot, from_zero, legend_below, name_rows, new_plot
from runai_model_streamer.plots.kinds import ACTS, OTHER, READS, REST, Kind
from runai_model_streamer.plots.traces import parse_trace

_WIDE: Final = 0.004
"""Fraction of the chart's width: about three pixels."""


class _Event(NamedTuple):
    thread: int
    kind: Kind
    start: float
    """Milliseconds since the first event."""
    length: float
    caller: bool
    """Whether the event is of the thread that takes the tensors."""


def timeline(trace: str | os.PathLike[str], title: str = "What each thread did") -> Plot:
    """Plot a row for each thread over time: its reads, copies, other work and waits.

    Args:
        trace: a file written by RUNAI_STREAMER_TRACE. https://ui.perfetto.dev opens it too, and can zoom.
        title: the title above the chart.

    Raises:
        ArgumentError: the file is not a trace, or has no events.
        OSError: the file cannot be read.
    """
    names, events = parse_trace(trace, _threads)
    if not events:
        raise ArgumentError("has no event in it: nothing was loaded", where=os.fspath(trace))
    rows = _rows(events, names)
    plot, axes = new_plot(title, "a row for each thread: the caller's, and the readers'", 1.7 + 0.24 * len(rows))
    end = max(event.start + event.length for event in events)
    for row, threads in enumerate(rows.values()):
        for event in events:
            if event.thread not in threads:
                continue
            # A white edge separates reads. An edge in its own colour keeps an event shorter than a pixel visible.
            wide = event.length > _WIDE * end and event.kind is not REST
            axes.broken_barh(
                [(event.start, event.length)],
                (row - 0.4, 0.8),
                facecolors=event.kind.colour,
                edgecolors="white" if wide else event.kind.colour,
                linewidth=0.5,
            )
    name_rows(axes, list(rows))
    axes.tick_params(axis="y", labelsize=8, labelcolor=QUIET)
    from_zero(axes, "x", "milliseconds", end / 1.12)
    known = [*READS.values(), *ACTS.values()]
    seen = dict.fromkeys(event.kind for event in events)
    kinds = [kind for kind in known if kind in seen] + [kind for kind in seen if kind not in known]
    legend_below(plot, [Patch(color=kind.colour) for kind in kinds], [kind.label for kind in kinds], columns=4)
    return plot


def _rows(events: list[_Event], names: dict[int, str]) -> dict[str, list[int]]:
    """Return threads by row name: the caller, then readers by number. Readers that only rest share one row."""
    rows: dict[str, list[int]] = {}
    resting = []
    for thread in dict.fromkeys(event.thread for event in events):
        mine = [event for event in events if event.thread == thread]
        if all(event.kind is REST for event in mine):
            resting.append(thread)
        elif any(event.caller for event in mine):
            rows["caller"] = [thread]
        else:
            rows[names.get(thread, f"thread {thread}").removeprefix("runai-")] = [thread]
    ordered = {name: rows[name] for name in sorted(rows, key=lambda name: (name != "caller", len(name), name))}
    return ordered | ({f"{len(resting)} others": resting} if resting else {})


def _threads(entries: list[dict[str, Any]]) -> tuple[dict[int, str], list[_Event]]:
    names = {entry["tid"]: str(entry["args"]["name"]) for entry in entries if entry["name"] == "thread_name"}
    return names, _events([entry for entry in entries if entry["ph"] == "X"])


def _events(entries: list[dict[str, Any]]) -> list[_Event]:
    first = min((entry["ts"] for entry in entries), default=0.0)
    return [
        _Event(entry["tid"], _kind(entry), (entry["ts"] - first) / 1e3, entry["dur"] / 1e3, entry["cat"] == "caller")
        for entry in sorted(entries, key=lambda entry: float(entry["ts"]))
    ]


def _kind(entry: dict[str, Any]) -> Kind:
    if entry["cat"] == "read":
        read = READS.get(entry["args"]["origin"], Kind(entry["name"], OTHER))
        return read if entry["name"] == "read" else Kind(entry["name"], "#E69F00")
    return ACTS.get(entry["name"], Kind(entry["name"], OTHER))
