"""gs:// from gcp-storage-emulator, a server that others wrote."""

import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.io.storage import Storage

emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")


@pytest.fixture
def url(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The files of a real model, in a bucket of the emulator."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="models")
    server.start()
    try:
        host, port = server._api._httpd.server_address[:2]  # noqa: SLF001 - there is no public way
        endpoint = f"http://{host}:{port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        for name in ("model.safetensors", "config.json"):
            upload = f"{endpoint}/upload/storage/v1/b/models/o?uploadType=media&name=minilm/{name}"
            request = urllib.request.Request(upload, (minilm / name).read_bytes(), method="POST")
            with urllib.request.urlopen(request) as answer:
                answer.read()
        yield "gs://models/minilm"
    finally:
        server.stop()


def digests(path: str) -> dict[str, bytes]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return {name: tensor.numpy().tobytes() for name, tensor in streamer.get_tensors()}


@pytest.mark.parametrize("limit", ["-1", "0", "64MB"])
def test_a_model_of_an_emulator_is_loaded_bit_for_bit_under_each_limit(
    url: str, minilm: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    (found,) = list_safetensors(url)
    assert found == f"{url}/model.safetensors"
    assert digests(found) == digests(str(minilm / "model.safetensors"))


def test_files_are_pulled_from_an_emulator(url: str, minilm: Path, tmp_path: Path) -> None:
    pull_files(url, tmp_path, allow_pattern=["*.json"])
    assert (tmp_path / "config.json").read_bytes() == (minilm / "config.json").read_bytes()


def test_what_an_emulator_lacks_is_told(url: str) -> None:
    says = "there is no object 'minilm/none' in bucket models"
    with (
        closing(Storage(LoadConfig.from_environment(), None, shared=False)) as storage,
        pytest.raises(NotFoundError, match=says),
    ):
        storage.open(f"{url}/none")
