"""How notebooks show a plot, and what an installation without matplotlib says."""

import subprocess
import sys

from matplotlib import rcParams

from runai_model_streamer import plots
from runai_model_streamer.plots.figure import COLOURS, WIDTH
from runai_model_streamer.report.load_report import LoadReport


def plot() -> plots.Plot:
    return plots.time_shares({"load": LoadReport(seconds=1.0, bound_by="cpu", shares={"cpu": 1.0})})


def test_a_notebook_is_given_a_sharp_png_at_the_width_of_its_column() -> None:
    data, size = plot()._repr_png_()
    assert data.startswith(b"\x89PNG")
    pixels = int.from_bytes(data[16:20], "big")
    assert size["width"] == WIDTH * 96 == 768
    assert pixels == 768 * 1.5
    assert size["alt"] == "What the time went to"


def test_a_plot_leaves_the_users_matplotlib_alone() -> None:
    before = dict(rcParams)
    plot()
    assert dict(rcParams) == before


def test_colours_are_of_the_palette_for_every_kind_of_colour_vision() -> None:
    okabe_ito = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"}
    assert set(COLOURS) <= okabe_ito
    assert len(set(COLOURS)) == len(COLOURS)


def test_without_matplotlib_the_error_has_the_pip_line_and_with_it_pyplot_is_left_alone() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from runai_model_streamer.errors import MissingDependencyError\n"
        "try:\n    import runai_model_streamer.plots\n"
        "except MissingDependencyError as error:\n    print(error)\n"
        "del sys.modules['matplotlib']\n"
        "import runai_model_streamer.plots\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install -e '.[notebook]' in a checkout of" in done.stdout
