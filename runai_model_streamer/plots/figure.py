"""The common parts of all plots: size, colours and axes, and their display in a notebook."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

WIDTH: Final = 8.0
"""Width of a notebook's column in inches, at the browsers' 96 pixels per inch."""

_SCREEN_DPI: Final = 96
_PNG_DPI: Final = 144
"""Sharp on high-resolution screens."""

_PNG_COLOURS: Final = 64
"""No visible difference, and a notebook with a dozen plots takes 0.2 MB instead of 0.8."""

# The Okabe-Ito palette, which is safe for colour-blind readers, without black and yellow.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
LINES: Final = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
"""One style for each colour, so that a print in grey is readable too."""

_LETTER: Final = 0.072
"""Mean width of a letter in a legend, in inches."""

_SYMBOL: Final = 0.55
"""Width of a legend's symbol and of the space around it, in inches."""

FAINT: Final = "#DDDDDD"
TEXT: Final = "#222222"
QUIET: Final = "#555555"


class Plot(Figure):
    """A matplotlib figure that a notebook shows without pyplot. `savefig` writes it to a file."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int | str]]:
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=_PNG_DPI)
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(_PNG_COLOURS).save(small, "png", optimize=True)
        width, height = (round(inches * _SCREEN_DPI) for inches in self.get_size_inches())
        return small.getvalue(), {"width": width, "height": height, "alt": self.get_suptitle()}


def new_plot(title: str, note: str, height: float) -> tuple[Plot, Axes]:
    """Return a figure `height` inches high with one pair of axes. `note` goes below the title."""
    plot = Plot(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = plot.add_subplot()
    axes.set_title(note, loc="left", fontsize=9, color=QUIET)
    plot.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=TEXT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.set_axisbelow(True)
    return plot, axes


def from_zero(axes: Axes, which: str, label: str, maximum: float) -> None:
    """Label the axis of values, "x" or "y", and begin it at zero. `maximum` is the largest value."""
    (axes.set_xlim if which == "x" else axes.set_ylim)(0, maximum * 1.12 or 1.0)
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(label, fontsize=10, color=TEXT)
    (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x" if which == "x" else "y", color=FAINT, linewidth=0.6)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of horizontal bars, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _width(labels: Sequence[str], columns: int) -> float:
    """Estimate the inches of a legend. Its columns are filled one after the other."""
    rows = -(-len(labels) // columns)
    longest = [max(map(len, labels[first : first + rows])) for first in range(0, len(labels), rows)]
    return sum(_SYMBOL + _LETTER * letters for letters in longest)


def legend_below(plot: Plot, handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    """Add a legend below the axes, where it covers no data, in as many as `columns` if they fit into the width."""
    columns = next((count for count in range(min(columns, len(labels)), 1, -1) if _width(labels, count) <= WIDTH), 1)
    plot.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
