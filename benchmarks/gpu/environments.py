"""Environments of the other loaders. They use the PyTorch of the environment that runs the benchmark: no second one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.environments import REPOSITORY, CannotRunError, last_line
from benchmarks.gpu.loaders import Loader

PATIENCE = 180.0
"""Seconds that pip may take."""


def python_of(loader: Loader) -> Path:
    """The interpreter that has the loader's package, which is installed now unless it is there.

    Raises CannotRunError, with pip's words, where that fails.
    """
    if not loader.package:
        return Path(sys.executable)
    folder = checkpoints.cache_folder() / "venvs" / f"gpu-{loader.package.partition('=')[0]}"
    python = folder / "bin" / "python"
    marker = folder / "installed.txt"
    ours = sysconfig.get_path("purelib")
    wanted = f"{loader.package} {ours}"
    if marker.exists() and marker.read_text() == wanted:
        return python
    print(f"installing {loader.package}", file=sys.stderr, flush=True)
    venv.create(folder, clear=True)
    # Behind the environment's own packages, so that the original comes before ours.
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "torch_of_the_benchmark.pth").write_text(f"{ours}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", loader.package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"not installed: pip took longer than {PATIENCE:.0f} s") from None
    if done.returncode:
        raise CannotRunError(f"not installed: {last_line(done.stderr)}")
    marker.write_text(wanted)
    return python


def variables_of(loader: Loader) -> Mapping[str, str]:
    """The environment of the loader's process: this shell's, without settings of any streamer, and its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNAI_", "FASTSAFETENSORS_", "INSTANTTENSOR_", "PYTHON"))
    }
    if not loader.package:
        kept["PYTHONPATH"] = str(REPOSITORY)
    return kept | loader.variables
