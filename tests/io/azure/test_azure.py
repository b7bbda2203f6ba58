"""Azure Blob Storage: ranges of one version, listings, verification, and the command."""

import logging
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import (
    ArgumentError,
    ChecksumError,
    ConfigError,
    IsDirectoryError,
    ReadError,
    SourceChangedError,
)
from runai_model_streamer.io.storage import Storage
from tests.io.azure.servers import Azure, azure_error
from tests.io.models import SHARDS, loaded, pull_by_patterns, pull_for_a_node, run_commands, same
from tests.servers import Exchange, cut_short, garbage, reset_at_once

pytestmark = pytest.mark.usefixtures("waits")

URL = f"az://models/llama/{SHARDS[0]}"


def storage() -> closing[Storage]:
    return closing(Storage(LoadConfig.from_environment(), None, shared=False))


class TestLoad:
    @pytest.mark.parametrize("limit", ["-1", "0", "1000000"])
    def test_a_model_in_a_container_is_loaded_bit_for_bit_under_each_limit(
        self, azure: Azure, folder: Path, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        urls = list_safetensors("az://models/llama")
        assert urls == [f"az://models/llama/{shard}" for shard in SHARDS]
        assert same(loaded(urls), folder)

    def test_every_range_is_one_of_the_version_that_was_opened(self, azure: Azure) -> None:
        loaded([URL])
        opening, *ranges = azure.server.requests
        assert "If-Match" not in opening.headers
        assert ranges
        assert {request.headers.get("If-Match") for request in ranges} == {
            azure.server.etag("models", f"llama/{SHARDS[0]}")
        }

    def test_a_blob_that_is_replaced_is_an_error_and_never_a_mixture(self, azure: Azure) -> None:
        with storage() as opened:
            source = opened.open(URL)
            azure.put(f"llama/{SHARDS[0]}", azure.blobs[f"llama/{SHARDS[0]}"][:-1] + b"?")
            with pytest.raises(SourceChangedError):
                source.read_into(300_000, memoryview(bytearray(1000)))

    def test_a_retry_to_the_container_goes_on_from_the_byte_that_had_landed(self, azure: Azure) -> None:
        with storage() as opened:
            source = opened.open(URL)
            azure.server.script(cut_short(40_000))
            source.read_into(300_000, memoryview(bytearray(100_000)))
        assert [request.span for request in azure.server.requests[1:]] == [(300_000, 399_999), (340_000, 399_999)]

    @pytest.mark.parametrize("seed", range(4))
    def test_any_mix_of_passing_faults_of_the_container_ends_with_every_byte_right(
        self, azure: Azure, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # All of them may meet one range.
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "4")
        chance = random.Random(seed)
        faults = [
            azure_error(503, "ServerBusy"),
            azure_error(500, "OperationTimedOut"),
            cut_short(chance.randrange(200_000)),
            reset_at_once(),
            garbage(),
        ]
        urls = list_safetensors("az://models/llama")
        azure.server.script(*(chance.choice(faults) for _ in range(4)))
        assert same(loaded(urls), folder)

    def test_some_tensors_of_a_model_are_selected(self, azure: Azure) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(list_safetensors("az://models/llama"), select=lambda name: name == "t1")
            assert [name for name, _ in streamer.get_tensors()] == ["t1"]

    @pytest.mark.parametrize("key", ["a b", "a%20b", "ü/ö", "a?b#c", "a+b&c=d", "x//y", "~(a)'b'"])
    def test_a_key_is_taken_as_it_is_written(self, azure: Azure, key: str) -> None:
        azure.put(f"odd/{key}", b"12345")
        with storage() as opened:
            (entry,) = opened.entries("az://models/odd", lambda _: True, recursive=True)
            assert (entry.path, entry.name) == (f"az://models/odd/{key}", key)
            memory = bytearray(5)
            opened.open(entry.path).read_into(0, memoryview(memory))
            assert memory == b"12345"

    def test_another_rank_opens_a_blob_without_a_request(self, azure: Azure) -> None:
        with storage() as opened:
            source = opened.open(URL)
            azure.server.clear()
            again = opened.open_known(URL, source.size, source.version)
            assert azure.server.requests == []
            again.read_into(0, memoryview(bytearray(1000)))
        (request,) = azure.server.requests
        assert request.headers["If-Match"] == source.version


class TestListing:
    @pytest.mark.parametrize("size", [1, 2, 1000])
    def test_a_prefix_is_a_folder_and_its_pages_are_all_listed(self, azure: Azure, size: int) -> None:
        azure.page_size = size
        with storage() as opened:
            names = [entry.name for entry in opened.entries("az://models/llama", lambda _: True, recursive=True)]
            flat = [entry.name for entry in opened.entries("az://models/llama/", lambda _: True, recursive=False)]
        assert flat == sorted(["config.json", "model.safetensors.index.json", *SHARDS])
        assert names == sorted([*flat, "original/model.safetensors"])

    def test_blobs_that_stand_for_folders_are_not_listed(self, azure: Azure) -> None:
        azure.put("llama/original", b"")
        azure.folders.add("llama/original")
        with storage() as opened:
            names = [entry.name for entry in opened.entries("az://models/llama", lambda _: True, recursive=True)]
        assert "original" not in names
        assert "original/model.safetensors" in names

    def test_a_name_that_xml_cannot_have_is_listed(self, azure: Azure) -> None:
        azure.put("odd/a\x01%b", b"1")
        with storage() as opened:
            (entry,) = opened.entries("az://models/odd", lambda _: True, recursive=True)
        assert entry.name == "a\x01%b"

    def test_an_answer_that_is_no_listing_is_told(self, azure: Azure) -> None:
        def page(exchange: Exchange) -> None:
            exchange.head(200, {"Content-Length": "4", "ETag": None})
            exchange.send(b"<no>")

        azure.server.script(page)
        with storage() as opened, pytest.raises(ReadError, match="the answer is not a listing of Azure"):
            opened.entries("az://models/llama", lambda _: True, recursive=True)

    def test_files_of_a_container_are_pulled_by_their_patterns(
        self, azure: Azure, folder: Path, tmp_path: Path
    ) -> None:
        pull_by_patterns("az://models/llama", azure.server, folder, tmp_path / "pulled")

    def test_a_node_pulls_it_once_from_the_container(self, azure: Azure, tmp_path: Path) -> None:
        pull_for_a_node("az://models/llama", tmp_path / "copy")

    def test_the_command_lists_loads_verifies_and_pulls_from_a_container(
        self, azure: Azure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = run_commands("az://models/llama", "az://missing", tmp_path / "pulled", capsys)
        assert "account planted has no container missing" in out


class TestVerify:
    def test_a_damaged_blob_is_an_error(self, azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        azure.md5[f"llama/{SHARDS[0]}"] = bytes(16)
        with pytest.raises(ChecksumError, match="MD5 is"):
            loaded([URL])

    def test_a_blob_without_a_checksum_is_loaded_with_a_warning(
        self, azure: Azure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        azure.md5[f"llama/{SHARDS[0]}"] = b""
        with caplog.at_level(logging.WARNING, "runai_model_streamer"):
            assert len(loaded([URL])) == 1
        assert "azcopy copy --put-md5" in caplog.text


@pytest.mark.parametrize("url", ["az://models", "az:///key", "https://account.blob.core.windows.net/models"])
def test_what_is_no_blob_is_told(url: str) -> None:
    with storage() as opened, pytest.raises(ArgumentError, match="/container/key"):
        opened.open(url)


def test_a_folder_is_no_blob() -> None:
    with storage() as opened, pytest.raises(IsDirectoryError):
        opened.open("az://models/llama/")


@pytest.mark.parametrize("url", ["az://", "https://account.blob.core.windows.net/"])
def test_what_is_no_container_is_told(url: str) -> None:
    with storage() as opened, pytest.raises(ArgumentError, match="does not name a container"):
        opened.entries(url, lambda _: True, recursive=True)


def test_without_an_account_the_error_says_how_to_name_one() -> None:
    with storage() as opened, pytest.raises(ConfigError, match="no storage account is named") as caught:
        opened.open(URL)
    assert "AZURE_STORAGE_ACCOUNT_NAME" in str(caught.value)
    assert f"https://ACCOUNT.blob.core.windows.net/models/llama/{SHARDS[0]}" in str(caught.value)


_LOAD = """
import sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    assert sum(1 for _ in streamer.get_tensors()) == 1
optional = {"azure", "boto3", "botocore", "google", "huggingface_hub", "msal", "requests"}
print(sorted(optional & {name.partition(".")[0] for name in sys.modules}))
"""


def test_a_load_with_a_key_or_of_a_public_container_imports_nothing_of_azure(azure: Azure) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD, URL], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
