"""Tests that only a real GPU can run: skipped, with the reason, where there is none. `make test-gpu` runs them."""

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer

HERE = Path(__file__).parent
PACKAGES = ("cuda.bindings", "cuda.core", "cupy", "kvikio", "numba.cuda")


def _missing() -> str | None:
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU, or no driver for it (nvidia-smi tells)"
    for package in PACKAGES:
        try:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed; the extras [cuda12] and [cuda13] bring it"
        except ModuleNotFoundError:
            return f"{package} is not installed; the extras [cuda12] and [cuda13] bring it"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and skip it where it cannot run."""
    reason = _missing()
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("gpu")
            # What drivers, CuPy and torch warn of on this machine is no fault of ours.
            item.add_marker(pytest.mark.filterwarnings("default"))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def nothing_left(device: torch.device) -> Iterator[None]:
    """After the test, torch's allocator holds what it held before it."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    yield
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated(device) == before


@pytest.fixture
def streamer() -> Iterator[SafetensorsStreamer]:
    with SafetensorsStreamer() as streamer:
        yield streamer
