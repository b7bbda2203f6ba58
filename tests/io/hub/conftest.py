"""A Hub of the tests', with a model of three shards, and an empty cache of huggingface_hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import stored, write
from tests.io.hub.servers import Hub
from tests.io.models import make_model, need_libcurl
from tests.servers import FaultServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards, one file that its index does not name, and files of a tokenizer."""
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    make_model(folder)
    write(folder / "consolidated.safetensors", {"t": stored("F32", [10])})
    write(folder / "original" / "model.safetensors", {"t": stored("F32", [11])})
    (folder / "tokenizer.json").write_text("[1, 2]")
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The model, at hf://org/model."""
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    need_libcurl()
    with FaultServer() as server, FaultServer() as cdn:
        hub = Hub(server, cdn)
        files = (path for path in folder.rglob("*") if path.is_file())
        hub.put({str(path.relative_to(folder)): path.read_bytes() for path in files})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "2")
        yield hub
