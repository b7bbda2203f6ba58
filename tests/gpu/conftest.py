"""Tests of what a GPU does: skipped, with the reason, where there is none. `make test-gpu` runs them.

Most run on the emulated runtime too, by `make test-torch`: operators are done by the CPU there, and a misuse of CUDA
fails its test. What that cannot show is marked `only_a_gpu`.
"""

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import torch_is_emulated

HERE = Path(__file__).parent
PACKAGES = ("cuda.bindings",)


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


@pytest.fixture(autouse=True)
def _no_misuse() -> Iterator[None]:
    """On the emulated device: whatever a test asserts, it fails for what CUDA forbids or does not promise."""
    if not torch_is_emulated():
        yield
        return
    from tests.cuda_emulator import torch_operators

    torch_operators.install()
    emulator = Emulator.attach()
    emulator.set_mode("lazy")
    emulator.take_misuses()
    yield
    assert emulator.take_misuses() == []


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def nothing_left(device: torch.device) -> Iterator[None]:
    """After the test, torch's allocator holds what it held before it."""
    before = _allocated(device)
    yield
    assert _allocated(device) == before


def _allocated(device: torch.device) -> int:
    # cuBLAS keeps memory of the allocator's for each stream that a product was on; torch's own tests drop it so.
    torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(device)


@pytest.fixture
def streamer() -> Iterator[SafetensorsStreamer]:
    with SafetensorsStreamer() as streamer:
        yield streamer
