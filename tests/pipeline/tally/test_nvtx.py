"""Ranges for profilers: on every way that bytes take, and nothing at all without a profiler."""

import contextlib
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.pipeline.tally import nvtx
from tests.casts import finite
from tests.checkpoints import numbered, write
from tests.cuda_emulator.testing import needs


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    nvtx._annotate.cache_clear()  # noqa: SLF001 - looked at once in a process
    yield
    nvtx._annotate.cache_clear()  # noqa: SLF001


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each range has been left, with a profiler attached."""
    found: Counter[str] = Counter()

    @contextlib.contextmanager
    def annotate(name: str, domain: str) -> Iterator[None]:
        assert domain == "runai_model_streamer"
        yield
        found[name] += 1

    package = types.ModuleType("nvtx")
    package.annotate = annotate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", package)
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/opt/nvidia/libToolsInjection64.so")
    return found


def test_a_load_into_host_memory_shows_its_reads_and_its_waits(ranges: Counter[str], tmp_path: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(write(tmp_path / "m", numbered([30 << 20, 5])))
        list(streamer.get_tensors())
    assert ranges.keys() == {"read", "wait for memory"}
    assert ranges["read"] > 1


def test_a_load_that_casts_shows_its_casts(ranges: Counter[str], tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(write(tmp_path / "m", {"a": finite("F32", [9])}), dtype=torch.bfloat16)
        list(streamer.get_tensors())
    assert ranges == {"read": 1, "wait for memory": 1, "cast": 1}


def test_a_function_is_called_in_a_range_where_there_is_a_profiler(ranges: Counter[str]) -> None:
    assert nvtx.in_range("copy", int)("7") == 7
    assert ranges == {"copy": 1}


def test_without_a_profiler_a_function_is_itself() -> None:
    assert nvtx.in_range("copy", int) is int


def test_a_profiler_without_the_package_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/opt/nvidia/libToolsInjection64.so")
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with nvtx.nvtx_range("read"):
        pass


@needs("nvtx")
def test_the_package_itself_takes_our_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "/there/is/none.so")
    with nvtx.nvtx_range("read"):
        pass


def test_without_a_profiler_the_package_is_not_even_imported(tmp_path: Path) -> None:
    path = write(tmp_path / "m", numbered([10]))
    script = (
        "import os, sys\n"
        "os.environ.pop('NVTX_INJECTION64_PATH', None)\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "with SafetensorsStreamer() as streamer:\n"
        f"    streamer.stream_file({str(path)!r})\n"
        "    assert len(list(streamer.get_tensors())) == 1\n"
        "print('nvtx' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
