"""az:// from azurite, Microsoft's own emulator of the service: `make test-stores` installs it."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import AccessDeniedError, CredentialsError, NotFoundError, SourceChangedError
from runai_model_streamer.io.storage import Storage
from tests.io.azure.servers import shared_key

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every emulator's."""
START_SECONDS = 120.0


class Azurite:
    """An emulator that runs."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def ask(self, method: str, path: str, data: bytes = b"", query: str = "", **headers: str) -> None:
        """Make a request, signed by the tests."""
        url = f"{self.endpoint}/{urllib.parse.quote(path)}{query}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        if data:
            sent |= {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        sent["Authorization"] = shared_key(ACCOUNT, KEY, method, url, sent)
        with urllib.request.urlopen(urllib.request.Request(url, data or None, sent, method=method)) as answer:
            answer.read()

    def put(self, path: str, data: bytes) -> None:
        """Store a blob."""
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        self.ask("PUT", path, data, x_ms_blob_type="BlockBlob", x_ms_blob_content_md5=md5)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Iterator[Azurite]:
    """The files of a real model, in the container `models` of an emulator, and in a public one."""
    program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if not program or not os.path.exists(program):
        pytest.skip("azurite is not installed (make test-stores)")
    log = tmp_path_factory.mktemp("azurite") / "log"
    # Absolute, since it runs in another folder.
    command = [
        os.path.abspath(program),
        "--blobPort",
        "0",
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        ends = time.monotonic() + START_SECONDS
        while not (found := re.search(r"listens on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        azurite = Azurite(f"{found[1]}/{ACCOUNT}")
        azurite.ask("PUT", "models", query="?restype=container")
        azurite.ask("PUT", "public", query="?restype=container", x_ms_blob_public_access="container")
        for name in ("model.safetensors", "config.json"):
            azurite.put(f"models/minilm/{name}", (minilm / name).read_bytes())
        azurite.put("public/config.json", b"{}")
        yield azurite
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def url(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model, in the account that a connection string names."""
    text = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azurite.endpoint}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    return "az://models/minilm"


def digests(path: str) -> dict[str, bytes]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return {name: tensor.numpy().tobytes() for name, tensor in streamer.get_tensors()}


def storage() -> closing[Storage]:
    return closing(Storage(LoadConfig.from_environment(), None, shared=False))


@pytest.mark.parametrize("limit", ["-1", "0", "64MB"])
def test_a_model_of_azurite_is_loaded_bit_for_bit_under_each_limit(
    url: str, minilm: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
    (found,) = list_safetensors(url)
    assert found == f"{url}/model.safetensors"
    assert digests(found) == digests(str(minilm / "model.safetensors"))


def test_files_are_pulled_from_azurite(url: str, minilm: Path, tmp_path: Path) -> None:
    pull_files(url, tmp_path, allow_pattern=["*.json"])
    assert (tmp_path / "config.json").read_bytes() == (minilm / "config.json").read_bytes()


@pytest.mark.parametrize("key", ["a b", "a%20b", "ü/ö", "a?b#c", "a+b&c=d", "~(a)'b'", "a$,;:@!"])
def test_any_key_of_azurite_is_listed_and_read(azurite: Azurite, url: str, key: str) -> None:
    azurite.put(f"models/odd/{key}", b"12345")
    with storage() as opened:
        entries = opened.entries("az://models/odd", lambda _: True, recursive=True)
        assert key in [entry.name for entry in entries]
        assert opened.open(f"az://models/odd/{key}").size == 5


def test_a_prefix_of_azurite_is_a_folder(url: str) -> None:
    with storage() as opened:
        flat = opened.entries("az://models", lambda _: True, recursive=False)
        below = opened.entries("az://models/minilm/", lambda _: True, recursive=False)
    assert flat == []
    assert [entry.name for entry in below] == ["config.json", "model.safetensors"]


def test_a_blob_of_azurite_that_is_replaced_is_an_error(azurite: Azurite, url: str) -> None:
    azurite.put("models/changing", b"1" * 400_000)
    with storage() as opened:
        source = opened.open("az://models/changing")
        azurite.put("models/changing", b"2" * 400_000)
        with pytest.raises(SourceChangedError):
            source.read_into(300_000, memoryview(bytearray(1000)))


def test_an_empty_blob_of_azurite_is_opened(azurite: Azurite, url: str) -> None:
    azurite.ask("PUT", "models/empty", x_ms_blob_type="BlockBlob", Content_Length="0")
    with storage() as opened:
        assert opened.open("az://models/empty").size == 0


def test_a_public_container_of_azurite_is_read_anonymously(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    monkeypatch.setenv("AZURE_STORAGE_ANON", "1")
    with storage() as opened:
        (entry,) = opened.entries("az://public", lambda _: True, recursive=True)
        assert opened.open(entry.path).size == 2
        with pytest.raises(CredentialsError, match="does not serve anonymous requests"):
            opened.open("az://models/minilm/config.json")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("az://models/none", "there is no blob 'none' in container models"),
        ("az://missing/none", "account devstoreaccount1 has no container missing"),
    ],
)
def test_what_azurite_lacks_is_told(url: str, path: str, says: str) -> None:
    with storage() as opened, pytest.raises(NotFoundError, match=says):
        opened.open(path)


def test_a_key_that_azurite_does_not_accept_is_told(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    # The service itself says AuthenticationFailed.
    with storage() as opened, pytest.raises(AccessDeniedError, match="Check the account key"):
        opened.open("az://models/none")
