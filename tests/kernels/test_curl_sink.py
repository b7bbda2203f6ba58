"""What libcurl calls is compiled, whatever state numba's cache on disk is in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

_COMPILE = "from runai_model_streamer.kernels import curl_sink; print(curl_sink.take_body.address > 0)"


def compiled_with(cache: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", _COMPILE]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is in order."""
    cache = tmp_path_factory.mktemp("numba")
    assert compiled_with(cache) == "True"
    assert {path.suffix for path in cache.rglob("*.nb?")} == {".nbi", ".nbc"}
    return cache


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kept", [0.0, 0.5], ids=["empty", "cut in half"])
def test_a_damaged_cache_is_done_without(filled: Path, tmp_path: Path, suffix: str, kept: float) -> None:
    cache = tmp_path / "numba"
    shutil.copytree(filled, cache)
    for path in cache.rglob(f"*{suffix}"):
        os.truncate(path, int(path.stat().st_size * kept))
    assert compiled_with(cache) == "True"


def test_a_cache_that_is_no_folder_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "numba").write_text("no folder")
    assert compiled_with(tmp_path / "numba") == "True"


def test_a_cache_whose_files_cannot_be_opened_is_done_without(filled: Path, tmp_path: Path) -> None:
    cache = tmp_path / "numba"
    shutil.copytree(filled, cache)
    for path in cache.rglob("*.nb?"):
        path.unlink()
        path.mkdir()
    assert compiled_with(cache) == "True"
