"""A service of the tests', with a model of three shards, and a server of tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.http import libcurl
from tests.checkpoints import stored, write
from tests.io.gcs.servers import Gcs, TokenServer
from tests.io.models import SHARDS
from tests.servers import FaultServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {}
    for number, shard in enumerate(SHARDS):
        write(folder / shard, {f"t{number}": stored("F32", [100_000 + number], seed=number)})
        weights[f"t{number}"] = shard
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


@pytest.fixture
def gcs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """The model, at gs://models/llama."""
    pytest.importorskip("google.auth", reason="the extra [gcs] is not installed")
    try:
        libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(f"no libcurl here: {error}")
    with FaultServer() as server:
        gcs = Gcs(server)
        for path in folder.iterdir():
            gcs.put(f"llama/{path.name}", path.read_bytes())
        gcs.put("llama/original/model.safetensors", b"below")
        gcs.put("llama2/config.json", b"{}")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "2")
        yield gcs


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server
