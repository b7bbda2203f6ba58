"""benchmarks/gpu.py, which a machine without a GPU can only show to work: on the CPU, with a tiny checkpoint."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import gpu

ROOT = Path(__file__).parents[1]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A checkpoint in two files; and a cache folder of its own for the benchmark's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"]
    for number, path in enumerate(files):
        save_file({f"{number}.{name}": torch.randn(300, 7) for name in "abcdefghijkl"}, path)
    return files


def arguments(files: list[Path], *more: str) -> list[str]:
    return ["--device", "cpu", "--rounds", "1", "--files", *map(str, files), *more]


@pytest.fixture
def warm_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is not to drop the machine's page cache, and some file systems do not let it."""
    monkeypatch.delitem(gpu.STATES, "cold")


@pytest.mark.usefixtures("warm_only")
def test_it_prints_a_row_for_each_loader(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(arguments(files))
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| warm \| (.*?) \| ([\d.]+) \| [\d.]+-[\d.]+ \| ([\d.]*) \|$", printed, re.MULTILINE)
    titles = [title for title, _, _ in rows]
    assert 'ours, device="cpu"' in titles
    assert "ours, to the host, then tensor.to()" in titles
    assert 'safetensors load_file(device="cpu")' in titles
    assert [ratio for title, _, ratio in rows if title == 'ours, device="cpu"'] == [""]
    assert all(float(rate) >= 0 for _, rate, _ in rows)
    assert "in 2 files, 1 rounds" in printed


@pytest.mark.usefixtures("warm_only")
def test_a_loader_that_fails_says_why_in_its_row(
    files: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in gpu.LOADERS.keys() - {gpu.OURS}:
        monkeypatch.delitem(gpu.LOADERS, loader)
    monkeypatch.setitem(gpu.LOADERS[gpu.OURS].environment, "RUNAI_STREAMER_MEMORY_LIMIT", "many")
    assert gpu.main(arguments(files)) == 1
    (row,) = re.findall(r"^\| warm \| ours, device=.*$", capsys.readouterr().out, re.MULTILINE)
    assert "RUNAI_STREAMER_MEMORY_LIMIT='many' cannot be used" in row


def test_wrong_bytes_are_no_result(files: list[Path]) -> None:
    loaded = dict(gpu.LOADERS["safetensors"].load([str(path) for path in files], "cpu"))
    names = [str(path) for path in files]
    assert gpu._wrong(loaded, names) == []  # noqa: SLF001
    first = min(loaded)
    loaded[first] = loaded[first] + 1
    del loaded["1.c"]
    assert gpu._wrong(loaded, names) == [first, "1.c"]  # noqa: SLF001


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(files: list[Path]) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--files", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no table: PyTorch")
