"""The notebooks run from top to bottom without a warning, and what git has of them is such a run."""

import importlib
import os
from pathlib import Path
from typing import Any, Final

import nbformat
import pytest
from nbclient import NotebookClient

ROOT: Final = Path(__file__).parents[1]
NOTEBOOKS: Final = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL: Final = {"NOTEBOOK_MB": "70", "NOTEBOOK_RUNS": "1"}
"""What the notebooks read: a checkpoint of this size, and loads of each combination of settings."""

PLOTS: Final = {"profile_load_throughput": 14, "quickstart": 1}
"""Without a GPU."""

FIRST: Final[dict[str, Any]] = {
    "cell_type": "code",
    "id": "first",
    "metadata": {},
    "source": "import warnings\nwarnings.simplefilter('error')",
    "outputs": [],
    "execution_count": None,
}

LARGEST: Final = 512 << 10
"""Bytes of a notebook in git."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def plots(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells(notebook) for output in cell.outputs)


def complaints(notebook: Any) -> list[str]:
    """Errors, and what was written to stderr."""
    outputs = [output for cell in cells(notebook) for output in cell.outputs]
    return [str(output) for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.fixture
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    importlib.import_module("matplotlib.font_manager")  # the first of all makes a cache of fonts, and may say so
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    # This checkout's package, whatever folder the notebook runs in; it uses nothing else of it.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    notebook.cells.insert(0, nbformat.from_dict(FIRST))  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert complaints(notebook) == []
    assert plots(notebook) >= PLOTS[path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_git_has_is_one_run_of_modest_size(path: Path) -> None:
    notebook = read(path)
    assert [cell.execution_count for cell in cells(notebook)] == [*range(1, len(cells(notebook)) + 1)]
    assert complaints(notebook) == []
    assert plots(notebook) >= PLOTS[path.stem]
    assert path.stat().st_size < LARGEST


def test_both_notebooks_are_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == PLOTS.keys()
