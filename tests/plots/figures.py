"""What a figure shows, as data."""

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer

from runai_model_streamer.plots import Plot


def title(plot: Plot) -> str:
    return plot.get_suptitle()


def ticks(plot: Plot, which: str) -> list[str]:
    (axes,) = plot.axes
    labels = axes.get_xticklabels() if which == "x" else axes.get_yticklabels()
    return [label.get_text() for label in labels]


def legend(plot: Plot) -> list[str]:
    return [text.get_text() for found in plot.legends for text in found.get_texts()]


def notes(plot: Plot) -> list[str]:
    (axes,) = plot.axes
    return [text.get_text() for text in axes.texts]


def curves(plot: Plot) -> dict[str, list[tuple[float, float, float]]]:
    """By name, each point's lowest, middle and highest value."""
    (axes,) = plot.axes
    found = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, bars = container.lines
        assert line is not None
        middles = np.asarray(line.get_ydata(), float).tolist()
        spans = [(middle, middle) for middle in middles]
        if bars:
            spans = [(float(path[0][1]), float(path[1][1])) for path in bars[0].get_segments()]
        points = zip(spans, middles, strict=True)
        found[str(container.get_label())] = [(low, middle, high) for (low, high), middle in points]
    return found


def bars(plot: Plot) -> list[tuple[float, float, float, str]]:
    """Row, beginning, length and colour of each."""
    (axes,) = plot.axes
    found = []
    for container in axes.containers:
        assert isinstance(container, BarContainer)
        for patch in container.patches:
            row = patch.get_y() + patch.get_height() / 2
            found.append((round(row, 6), patch.get_x(), patch.get_width(), to_hex(patch.get_facecolor()).upper()))
    return found
