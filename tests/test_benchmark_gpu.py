"""benchmarks/gpu, which a machine without a GPU can only show to work: on the CPU, with a tiny checkpoint."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.environments import CannotRunError
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import bandwidth, environments
from benchmarks.gpu.load import wrong
from benchmarks.gpu.loaders import LOADERS, OURS, Loader

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
    output = str(files[0].with_name("table.md"))
    return ["--device", "cpu", "--rounds", "1", "--files", *map(str, files), "--output", output, *more]


@pytest.fixture
def warm_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is not to drop the machine's page cache, and some file systems do not let it; and it installs nothing."""
    monkeypatch.delitem(gpu.STATES, "disk")
    for name, loader in list(LOADERS.items()):
        if loader.package:
            monkeypatch.delitem(LOADERS, name)


@pytest.mark.usefixtures("warm_only")
def test_it_prints_a_row_for_each_loader(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(arguments(files))
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| memory \| (.*?) \| ([\d.]+) \| [\d.]+-[\d.]+ \| ([\d.]*) \|$", printed, re.MULTILINE)
    titles = [title for title, _, _ in rows]
    assert 'ours, device="cpu"' in titles
    assert "ours, to the host, then tensor.to()" in titles
    assert 'safetensors load_file(device="cpu")' in titles
    assert [ratio for title, _, ratio in rows if title == 'ours, device="cpu"'] == [""]
    assert all(float(rate) >= 0 for _, rate, _ in rows)
    assert "in 2 files, 1 rounds" in printed
    assert files[0].with_name("table.md").read_text() in printed


@pytest.mark.usefixtures("warm_only")
def test_a_loader_that_fails_says_why_in_its_row(
    files: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in LOADERS.keys() - {OURS}:
        monkeypatch.delitem(LOADERS, loader)
    monkeypatch.setitem(LOADERS[OURS].variables, "RUNAI_STREAMER_MEMORY_LIMIT", "many")
    assert gpu.main(arguments(files)) == 1
    (row,) = re.findall(r"^\| memory \| ours, device=.*$", capsys.readouterr().out, re.MULTILINE)
    assert "RUNAI_STREAMER_MEMORY_LIMIT='many' cannot be used" in row


def test_wrong_bytes_are_no_result(files: list[Path]) -> None:
    loaded = dict(LOADERS["safetensors"].load([str(path) for path in files], "cpu"))
    names = [str(path) for path in files]
    assert wrong(loaded, names) == []
    first = min(loaded)
    loaded[first] = loaded[first] + 1
    del loaded["1.c"]
    assert wrong(loaded, names) == [first, "1.c"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(files: list[Path]) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--files", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no table: PyTorch")


def test_a_package_that_cannot_be_installed_is_a_row_that_says_why(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    loader = Loader("none", LOADERS["safetensors"].load, package="no-such-package-of-ours")
    with pytest.raises(CannotRunError, match=r"^not installed: .*no-such-package-of-ours"):
        environments.python_of(loader)
    monkeypatch.delitem(gpu.STATES, "disk")
    for name in list(LOADERS):
        monkeypatch.delitem(LOADERS, name)
    monkeypatch.setitem(LOADERS, OURS, loader)
    (row,) = gpu.run(files, files[0], "cpu", 2, 60)
    assert row.failure.startswith("not installed: ")


def test_after_the_first_round_no_load_begins_when_the_time_is_over(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def measure(loader: str, *_: object) -> float:
        loads.append(loader)
        return 1.0

    monkeypatch.setattr(gpu, "measure", measure)
    seconds = iter(range(1000))
    rows = gpu.run(files, files[0], "cpu", 5, 0, clock=lambda: next(seconds))
    assert loads == [row.loader for row in rows]
    assert all(len(row.rates) == 1 for row in rows)


def test_a_loaders_process_sees_no_streamers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert environments.variables_of(LOADERS[OURS])["PYTHONPATH"] == str(ROOT)
    theirs = environments.variables_of(LOADERS["runai"])
    assert not {"RUNAI_STREAMER_CONCURRENCY", "PYTHONPATH"} & theirs.keys()


NVBANDWIDTH = """nvbandwidth Version: v0.8
Device 0: NVIDIA H100 80GB HBM3 (00000000:1b:00)
Device 1: NVIDIA H100 80GB HBM3 (00000000:43:00)

Running host_to_device_memcpy_ce.
memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0     55.25     54.13

SUM host_to_device_memcpy_ce 109.38
"""


@pytest.mark.parametrize(
    ("index", "rate"), [(0, "55.25 GB/s"), (1, "54.13 GB/s"), (2, "its output was not understood")]
)
def test_nvbandwidths_figure_is_that_of_the_gpu(index: int, rate: str) -> None:
    assert bandwidth.of_nvbandwidth(index, lambda name: f"/usr/bin/{name}", lambda _: NVBANDWIDTH) == rate


def test_without_nvbandwidth_the_table_says_so() -> None:
    assert bandwidth.of_nvbandwidth(0, lambda _: None) == "not installed"


def test_an_nvbandwidth_that_fails_is_no_end_of_the_table() -> None:
    def fail(command: Sequence[str]) -> str:
        raise subprocess.CalledProcessError(1, list(command))

    assert bandwidth.of_nvbandwidth(0, lambda name: name, fail).startswith("failed: ")
