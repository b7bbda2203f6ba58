"""A service of the tests', with a model of three shards, and a server of tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.io.gcs.servers import Gcs, TokenServer
from tests.io.models import make_model, need_libcurl, put_model
from tests.servers import FaultServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    make_model(folder)
    return folder


@pytest.fixture
def gcs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """The model, at gs://models/llama."""
    pytest.importorskip("google.auth", reason="the extra [gcs] is not installed")
    need_libcurl()
    with FaultServer() as server:
        gcs = Gcs(server)
        put_model(gcs.put, folder)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "2")
        yield gcs


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server
