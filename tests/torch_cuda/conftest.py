"""Loads by PyTorch's CUDA build on the emulated runtime: `make test-torch`. Elsewhere all of these are skipped."""

from pathlib import Path

import pytest

from tests.checkpoints import write
from tests.torch_cuda.loads import MIB, TENSORS


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of `TENSORS`."""
    return write(tmp_path / "model.safetensors", TENSORS)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups on a device hold what all readers read at once, which is little here."""
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(16 * MIB))
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "4")
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(MIB))
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "0")
