"""Google Cloud Storage: ranges of one generation, listings, credentials, and what users are told."""

import base64
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.config import GcsConfig, LoadConfig
from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentError,
    ChecksumError,
    ConfigError,
    CredentialsError,
    MissingDependencyError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.gcs.access import GcsCredentials
from runai_model_streamer.io.storage import Storage
from tests.io.gcs.servers import TOKEN, Gcs, TokenServer, service_account
from tests.io.models import SHARDS, loaded, pull_by_patterns, pull_for_a_node, run_commands, same
from tests.io.s3 import test_secrets as secrets
from tests.servers import cut_short, garbage, refuse, reset_at_once

pytestmark = pytest.mark.usefixtures("waits")

URL = f"gs://models/llama/{SHARDS[0]}"


def told(url: str = URL) -> StreamerError:
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as caught:
        streamer.stream_file(url)
    return caught.value


class TestLoad:
    @pytest.mark.parametrize("limit", ["-1", "0", "1000000"])
    def test_a_model_in_a_bucket_is_loaded_bit_for_bit_under_each_limit(
        self, gcs: Gcs, folder: Path, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        urls = list_safetensors("gs://models/llama")
        assert urls == [f"gs://models/llama/{shard}" for shard in SHARDS]
        assert same(loaded(urls), folder)

    def test_every_range_is_one_of_the_generation_that_was_opened(self, gcs: Gcs) -> None:
        loaded([URL])
        generation = str(gcs.objects[f"llama/{SHARDS[0]}"][1])
        opening, *ranges = gcs.server.requests
        assert "x-goog-if-generation-match" not in opening.headers
        assert ranges
        assert {request.headers.get("x-goog-if-generation-match") for request in ranges} == {generation}

    def test_an_object_of_another_generation_is_an_error_and_never_a_mixture(self, gcs: Gcs, folder: Path) -> None:
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            source = storage.open(URL)
            # The same bytes, so that the ETag is the same.
            gcs.put(f"llama/{SHARDS[0]}", (folder / SHARDS[0]).read_bytes())
            with pytest.raises(SourceChangedError):
                source.read_into(300_000, memoryview(bytearray(1000)))
        finally:
            storage.close()

    def test_a_retry_to_the_bucket_goes_on_from_the_byte_that_had_landed(self, gcs: Gcs) -> None:
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            source = storage.open(URL)
            gcs.server.script(cut_short(40_000))
            source.read_into(300_000, memoryview(bytearray(100_000)))
        finally:
            storage.close()
        assert [request.span for request in gcs.server.requests[1:]] == [(300_000, 399_999), (340_000, 399_999)]

    @pytest.mark.parametrize("seed", range(4))
    def test_any_mix_of_passing_faults_of_the_bucket_ends_with_every_byte_right(
        self, gcs: Gcs, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # All of them may meet one range.
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "4")
        chance = random.Random(seed)
        faults = [refuse(503, ""), refuse(429, ""), cut_short(chance.randrange(200_000)), reset_at_once(), garbage()]
        urls = list_safetensors("gs://models/llama")
        gcs.server.script(*(chance.choice(faults) for _ in range(4)))
        assert same(loaded(urls), folder)

    @pytest.mark.parametrize("key", ["a b", "a%20b", "ü/ö", "a?b#c", "a+b&c=d", "x//y"])
    def test_a_key_is_taken_as_it_is_written(self, gcs: Gcs, key: str, tmp_path: Path) -> None:
        gcs.put(f"odd/{key}", b"12345")
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            (entry,) = storage.entries("gs://models/odd", lambda _: True, recursive=True)
            assert (entry.path, entry.name) == (f"gs://models/odd/{key}", key)
            memory = bytearray(5)
            storage.open(entry.path).read_into(0, memoryview(memory))
            assert memory == b"12345"
        finally:
            storage.close()


class TestListing:
    def test_a_prefix_is_a_folder_and_its_pages_are_all_listed(self, gcs: Gcs) -> None:
        gcs.page_size = 2
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            names = [entry.name for entry in storage.entries("gs://models/llama", lambda _: True, recursive=True)]
            flat = [entry.name for entry in storage.entries("gs://models/llama/", lambda _: True, recursive=False)]
        finally:
            storage.close()
        assert flat == sorted(["config.json", "model.safetensors.index.json", *SHARDS])
        assert names == sorted([*flat, "original/model.safetensors"])

    def test_files_of_a_bucket_are_pulled_by_their_patterns(self, gcs: Gcs, folder: Path, tmp_path: Path) -> None:
        pull_by_patterns("gs://models/llama", gcs.server, folder, tmp_path / "pulled")

    def test_a_node_pulls_it_once_from_the_bucket(self, gcs: Gcs, tmp_path: Path) -> None:
        pull_for_a_node("gs://models/llama", tmp_path / "copy")

    def test_the_command_lists_loads_verifies_and_pulls_from_a_bucket(
        self, gcs: Gcs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = run_commands("gs://models/llama", "gs://missing", tmp_path / "pulled", capsys)
        assert "there is no bucket missing" in out


class TestVerify:
    def test_a_damaged_object_is_an_error(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        data, generation = gcs.objects[f"llama/{SHARDS[0]}"]
        gcs.objects[f"llama/{SHARDS[0]}"] = data[:-1] + b"?", generation  # what the service says it is
        with pytest.raises(ChecksumError, match="MD5 is"):
            loaded([URL])

    @pytest.mark.parametrize("right", [True, False])
    def test_the_crc32c_of_an_object_is_compared(self, gcs: Gcs, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        awscrt = pytest.importorskip("awscrt.checksums", reason="the extra [verify] is not installed")
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        data, _ = gcs.objects[f"llama/{SHARDS[0]}"]
        crc = awscrt.crc32c(data) ^ (0 if right else 1)
        gcs.crc32c[f"llama/{SHARDS[0]}"] = base64.b64encode(crc.to_bytes(4)).decode()
        if right:
            assert len(loaded([URL])) == 1
        else:
            with pytest.raises(ChecksumError, match="CRC32C is"):
                loaded([URL])


class TestCredentials:
    @pytest.mark.parametrize("variable", ["RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GCS_CREDENTIAL_FILE"])
    def test_a_file_of_credentials_is_used(
        self,
        gcs: Gcs,
        tokens: TokenServer,
        tmp_path: Path,
        variable: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        gcs.token = TOKEN
        monkeypatch.setenv(variable, str(service_account(tmp_path, tokens.url)))
        assert len(loaded([URL])) == 1
        assert len(tokens.requests) == 1

    def test_without_a_setting_google_auth_searches(
        self, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path, tokens.url)))
        credentials = GcsCredentials(GcsConfig())
        assert credentials.token() == credentials.token() == TOKEN
        assert len(tokens.requests) == 1

    def test_a_token_that_is_about_to_expire_is_refreshed(self, tokens: TokenServer, tmp_path: Path) -> None:
        tokens.tokens, tokens.lifetime = ["first", "second"], 1
        credentials = GcsCredentials(GcsConfig(credential_file=str(service_account(tmp_path, tokens.url))))
        assert (credentials.token(), credentials.token()) == ("first", "second")

    def test_a_token_that_runs_out_is_renewed(
        self, gcs: Gcs, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GCS_CREDENTIAL_FILE", str(service_account(tmp_path, tokens.url)))
        gcs.token, tokens.tokens = "first", ["first", "second"]
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            source = storage.open(URL)
            gcs.token = "second"  # the first is revoked
            source.read_into(300_000, memoryview(bytearray(1000)))
        finally:
            storage.close()
        assert len(tokens.requests) == 2

    def test_anonymous_requests_are_for_public_buckets(
        self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: TokenServer
    ) -> None:
        monkeypatch.setenv("GCS_CREDENTIAL_FILE", str(service_account(tmp_path, tokens.url)))
        monkeypatch.setenv("RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS", "1")
        assert len(loaded([URL])) == 1
        assert tokens.requests == []
        gcs.token = TOKEN
        error = told()
        assert type(error) is CredentialsError
        assert "bucket models does not serve anonymous requests" in str(error)
        assert "Unset RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS" in str(error)


class TestErrors:
    @pytest.fixture(autouse=True)
    def _user(self, gcs: Gcs, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GCS_CREDENTIAL_FILE", str(service_account(tmp_path, tokens.url)))

    def test_credentials_that_the_service_refuses_are_told(self, gcs: Gcs) -> None:
        gcs.token = "another"
        error = told()
        assert type(error) is CredentialsError
        assert "the service does not accept the credentials (HTTP 401" in str(error)
        assert TOKEN not in str(error)

    def test_an_account_without_the_role_is_told(self, gcs: Gcs) -> None:
        gcs.allowed = False
        error = told()
        assert type(error) is AccessDeniedError
        assert "roles/storage.objectViewer" in str(error)
        with pytest.raises(AccessDeniedError, match="access denied to bucket models"):
            list_safetensors("gs://models/llama")

    def test_a_missing_object_is_told(self, gcs: Gcs) -> None:
        error = told("gs://models/none")
        assert type(error) is NotFoundError
        assert "there is no object 'none' in bucket models" in str(error)

    @pytest.mark.parametrize("call", [told, list_safetensors])
    def test_a_missing_bucket_is_told(self, gcs: Gcs, call: Callable[[str], object]) -> None:
        try:
            error = call("gs://missing/none")
        except StreamerError as raised:
            error = raised
        assert isinstance(error, NotFoundError)
        assert "there is no bucket missing" in str(error)

    def test_a_missing_prefix_is_told(self, gcs: Gcs) -> None:
        with pytest.raises(NotFoundError, match="bucket models has no key that begins with 'none/'"):
            list_safetensors("gs://models/none")

    def test_a_service_that_throttles_is_told(self, gcs: Gcs) -> None:
        gcs.server.choose = lambda _: refuse(429, "")
        error = told()
        assert type(error) is ReadError
        assert "is failing or overloaded (HTTP 429" in str(error)

    def test_a_service_that_is_away_is_told(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "0")
        error = told()
        assert type(error) is StorageUnreachableError
        assert "no connection to 127.0.0.1:1" in str(error)

    def test_a_provider_that_refuses_is_told_without_its_words(self, gcs: Gcs, tokens: TokenServer) -> None:
        tokens.tokens = [""]
        error = told()
        assert type(error) is CredentialsError
        assert "the provider of credentials gives none (RefreshError)" in str(error)
        assert error.__cause__ is None

    @pytest.mark.parametrize("text", ["no JSON", "{}", '{"type": "service_account"}', None])
    def test_a_file_that_is_none_of_credentials_is_told(
        self, gcs: Gcs, tmp_path: Path, text: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if text is not None:
            (tmp_path / "file").write_text(text)
        monkeypatch.setenv("GCS_CREDENTIAL_FILE", str(tmp_path / "file"))
        error = told()
        assert type(error) is ConfigError
        assert "the file of credentials cannot be used" in str(error)

    def test_no_credentials_at_all_are_told(self, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GCS_CREDENTIAL_FILE")
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        error = told()
        assert type(error) is CredentialsError
        assert "no credentials were found" in str(error)
        assert "gcloud auth application-default login" in str(error)

    @pytest.mark.parametrize("fault", ["denied", "missing", "refused"])
    def test_no_frame_log_or_error_shows_a_token_of_google(
        self, gcs: Gcs, tokens: TokenServer, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        gcs.token = secrets.PASSWORD if fault != "refused" else "another"
        tokens.tokens = [secrets.PASSWORD]
        gcs.allowed = fault != "denied"
        with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
            secrets.tell_on(lambda: secrets.load("gs://models/none" if fault == "missing" else URL))
        assert secrets.PASSWORD not in caplog.text


@pytest.mark.parametrize("url", ["gs://models", "gs:///key"])
def test_what_is_no_object_of_a_bucket_is_told(url: str) -> None:
    with pytest.raises(ArgumentError, match="write gs://bucket/key"):
        Storage(LoadConfig(), None, shared=False).open(url)


def test_without_google_auth_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "google.auth.transport.requests", None)
    with (
        SafetensorsStreamer() as streamer,
        pytest.raises(MissingDependencyError, match=r"needs google-auth: .*\[gcs\]"),
    ):
        streamer.stream_file(URL)
