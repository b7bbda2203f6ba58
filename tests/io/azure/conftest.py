"""A service of the tests', with a model of three shards, and a managed identity."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.io.azure.servers import ACCOUNT, Azure, Identity
from tests.io.gcs.conftest import folder
from tests.io.models import need_libcurl, put_model
from tests.io.tokens import ProviderServer
from tests.servers import FaultServer

__all__ = ["folder"]  # a fixture


@pytest.fixture
def azure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """The model, at az://models/llama. Nothing is searched for credentials."""
    need_libcurl()
    with FaultServer() as server:
        azure = Azure(server)
        put_model(azure.put, folder)
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
