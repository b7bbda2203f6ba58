"""A service of the tests', with a model of three shards, and a managed identity."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from runai_model_streamer.io.http import libcurl
from tests.checkpoints import stored, write
from tests.io.azure.servers import ACCOUNT, Azure, Identity
from tests.io.tokens import ProviderServer
from tests.servers import FaultServer

SHARDS: Final = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))


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
def azure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """The model, at az://models/llama. Nothing is searched for credentials."""
    try:
        libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(f"no libcurl here: {error}")
    with FaultServer() as server:
        azure = Azure(server)
        for path in folder.iterdir():
            azure.put(f"llama/{path.name}", path.read_bytes())
        azure.put("llama/original/model.safetensors", b"below")
        azure.put("llama2/config.json", b"{}")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ANON", "1")
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "2")
        yield azure


@pytest.fixture
def identity(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    """A managed identity, in place of anonymous requests."""
    pytest.importorskip("azure.identity", reason="the extra [azure] is not installed")
    identity = Identity()
    with ProviderServer(identity.answer) as server:
        monkeypatch.delenv("AZURE_STORAGE_ANON")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "planted-header")
        yield identity
