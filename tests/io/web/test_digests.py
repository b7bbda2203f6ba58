"""Checksums that servers send, and files that do not have them."""

import base64
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ChecksumError
from runai_model_streamer.io.web.digests import find
from tests.checkpoints import stored, write
from tests.io.web.servers import WebServers, always, with_headers

SHA256 = hashlib.sha256(b"abc").digest()
MD5 = hashlib.md5(b"abc", usedforsecurity=False).digest()


def text(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize(
    ("headers", "algorithm", "value"),
    [
        ({"repr-digest": f"sha-256=:{text(SHA256)}:"}, "SHA256", SHA256),
        ({"repr-digest": f"sha-512=:AAAA:, sha-256=:{text(SHA256)}:"}, "SHA256", SHA256),
        ({"digest": f"SHA-256={text(SHA256)}"}, "SHA256", SHA256),
        ({"digest": f"MD5={text(MD5)},SHA-256={text(SHA256)}"}, "SHA256", SHA256),
        ({"x-goog-hash": f"crc32c=AAAAAA==, md5={text(MD5)}"}, "CRC32C", bytes(4)),
        ({"x-ms-blob-content-md5": text(MD5)}, "MD5", MD5),
        ({"x-checksum-sha256": SHA256.hex()}, "SHA256", SHA256),
        ({"x-checksum-md5": MD5.hex()}, "MD5", MD5),
    ],
)
def test_a_header_with_a_checksum_is_understood(headers: Mapping[str, str], algorithm: str, value: bytes) -> None:
    assert find(headers) == (algorithm, value)


def test_without_awscrt_a_hash_is_taken_before_a_crc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)
    assert find({"x-goog-hash": f"crc32c=AAAAAA==, md5={text(MD5)}"}) == ("MD5", MD5)
    assert find({"x-goog-hash": "crc32c=AAAAAA=="}) == ("CRC32C", bytes(4))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-md5": text(MD5)},  # of the range
        {"repr-digest": "sha-256=:no base64:"},
        {"digest": "SHA-256=AAAA"},
        {"x-checksum-sha256": "abc"},
    ],
)
def test_a_header_without_one_is_none(headers: Mapping[str, str]) -> None:
    assert find(headers) is None


@pytest.fixture
def data(servers: WebServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A checkpoint on the first server, and a load that verifies."""
    monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
    path = write(tmp_path / "model.safetensors", {"t": stored("F32", [100_000])})
    data = path.read_bytes()
    servers.origin.put("models", "model.safetensors", data)
    return data


def load(url: str) -> int:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(url)
        return sum(1 for _ in streamer.get_tensors())


def test_a_file_that_has_its_checksum_is_loaded(servers: WebServers, data: bytes) -> None:
    servers.origin.choose = always(with_headers({"Repr-Digest": f"sha-256=:{text(hashlib.sha256(data).digest())}:"}))
    assert load(servers.url) == 1
    assert "Want-Repr-Digest" in servers.origin.requests[1].headers


def test_a_file_that_does_not_have_its_checksum_is_an_error(servers: WebServers, data: bytes) -> None:
    servers.origin.choose = always(with_headers({"Repr-Digest": f"sha-256=:{text(SHA256)}:"}))
    with pytest.raises(ChecksumError, match="SHA256 is"):
        load(servers.url)


def test_a_server_without_checksums_is_a_warning(
    servers: WebServers, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(servers.url) == 1
    assert "not verified: the store has no checksum of the whole object" in caplog.text
