"""A service of the tests', with a model of three shards, and a managed identity."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.http import libcurl
from tests.io.azure.servers import ACCOUNT, Azure, Identity
from tests.io.gcs.conftest import folder
from tests.io.tokens import ProviderServer
from tests.servers import FaultServer

__all__ = ["folder"]  # a fixture


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
