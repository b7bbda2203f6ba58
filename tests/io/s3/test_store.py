"""Objects read as they should be: addressing, credentials, ranges, connections."""

import gc
import os
import random
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runai_model_streamer.errors import (
    ArgumentError,
    CredentialsError,
    InterruptedReadError,
    IsDirectoryError,
    MissingDependencyError,
    TruncatedError,
)
from runai_model_streamer.io.objects.source import PREFIX_BYTES, ObjectSource
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.origins import Origin, SourceKind
from tests.io.contract import read_at
from tests.io.transports import KEYS, URL, store_of
from tests.servers import (
    Certificate,
    FaultServer,
    Request,
    aws_environment,
    closing,
    moto_server,
    no_length,
    refuse,
    reset_after,
    reset_at_once,
)

DATA = random.Random(0).randbytes(3_000_000)

pytestmark = pytest.mark.usefixtures("aws_files", "transport")


def ranges(server: FaultServer) -> list[str]:
    return [request.headers["Range"] for request in server.requests]


def access_key(request: Request) -> str:
    return request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]


def test_without_botocore_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    with store_of(None) as store, pytest.raises(MissingDependencyError, match=r"pip install -e '.\[s3\]'"):
        store.open(URL)


class TestRanges:
    def test_opening_is_one_request_for_the_first_bytes(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            assert (source.path, source.kind, source.size, source.alignment) == (URL, SourceKind.OBJECT, len(DATA), 1)
        assert [request.method for request in server.requests] == ["GET"]
        assert ranges(server) == [f"bytes=0-{PREFIX_BYTES - 1}"]

    def test_reads_within_the_first_bytes_ask_for_nothing_more(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            assert read_at(source, 0, 8) == DATA[:8]
            assert read_at(source, 8, 100_000) == DATA[8:100_008]
            assert read_at(source, PREFIX_BYTES - 1, 1) == DATA[PREFIX_BYTES - 1 : PREFIX_BYTES]
        assert len(server.requests) == 1

    def test_a_read_across_the_end_of_the_first_bytes_asks_only_for_the_rest(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            assert read_at(source, PREFIX_BYTES - 10, 30) == DATA[PREFIX_BYTES - 10 : PREFIX_BYTES + 20]
        assert ranges(server)[1:] == [f"bytes={PREFIX_BYTES}-{PREFIX_BYTES + 19}"]

    def test_a_read_beyond_the_first_bytes_drops_them(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            read_at(source, 1_000_000, 10)
            assert read_at(source, 0, 10) == DATA[:10]
        assert ranges(server)[1:] == ["bytes=1000000-1000009", "bytes=0-9"]

    def test_a_read_says_that_it_came_from_object_storage(self, server: FaultServer) -> None:
        with store_of(server) as store:
            assert store.open(URL).read_into(0, memoryview(bytearray(1))) is Origin.OBJECT

    def test_an_object_smaller_than_the_first_bytes_is_read_in_one_request(self, server: FaultServer) -> None:
        server.put("bucket", "small", b"small")
        with store_of(server) as store:
            source = store.open("s3://bucket/small")
            assert source.size == 5
            assert read_at(source, 0, 5) == b"small"
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [416, 200])
    def test_an_empty_object_has_no_bytes_however_the_store_says_so(self, server: FaultServer, status: int) -> None:
        server.put("bucket", "empty", b"")
        server.script(refuse(416, "InvalidRange") if status == 416 else lambda exchange: exchange.head(200))
        with store_of(server) as store:
            source = store.open("s3://bucket/empty")
            assert source.size == 0
            assert read_at(source, 0, 0) == b""

    def test_reading_past_the_end_fails_before_anything_is_asked_for(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            with pytest.raises(TruncatedError, match=r"bytes 2999999-3000001 cannot be read: the object has 3000000"):
                read_at(source, len(DATA) - 1, 2)
        assert len(server.requests) == 1

    def test_sixteen_threads_read_the_same_object_byte_for_byte(self, server: FaultServer) -> None:
        chunk = 100_000
        whole = bytearray(len(DATA))
        with store_of(server, connections=16) as store, ThreadPoolExecutor(16) as pool:
            source = store.open(URL)
            view = memoryview(whole)
            list(pool.map(lambda at: source.read_into(at, view[at : at + chunk]), range(0, len(DATA), chunk)))
        assert whole == DATA

    def test_every_later_request_is_for_the_object_that_was_opened(self, server: FaultServer) -> None:
        with store_of(server) as store:
            read_at(store.open(URL), 500_000, 10)
        assert "If-Match" not in server.requests[0].headers
        assert server.requests[1].headers["If-Match"].startswith('"')

    @pytest.mark.parametrize("etag", [None, 'W/"weak"'])
    def test_an_etag_that_cannot_match_is_not_asked_for(self, server: FaultServer, etag: str | None) -> None:
        server.put("bucket", "model.safetensors", DATA, etag)
        with store_of(server) as store:
            assert read_at(store.open(URL), 500_000, 10) == DATA[500_000:500_010]
        assert "If-Match" not in server.requests[1].headers

    def test_no_header_asks_for_checksums_that_other_stores_do_not_know(self, server: FaultServer) -> None:
        with store_of(server) as store:
            store.open(URL)
        assert not [name for name in server.requests[0].headers if "checksum" in name.lower()]


class TestConnections:
    def test_one_thread_keeps_one_connection(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            for offset in range(300_000, 2_300_000, 100_000):
                assert read_at(source, offset, 100_000) == DATA[offset : offset + 100_000]
        assert (len(server.requests), server.connections) == (21, 1)

    def test_a_body_without_a_length_keeps_its_connection_too(self, server: FaultServer) -> None:
        server.choose = lambda request: no_length()
        with store_of(server) as store:
            source = store.open(URL)
            for offset in range(300_000, 2_300_000, 500_000):
                assert read_at(source, offset, 500_000) == DATA[offset : offset + 500_000]
        assert (len(server.requests), server.connections) == (5, 1)

    def test_a_server_that_closes_after_each_answer_is_read_all_the_same(self, server: FaultServer) -> None:
        server.choose = lambda request: closing()
        with store_of(server) as store:
            source = store.open(URL)
            assert read_at(source, 300_000, 2_000_000) == DATA[300_000:2_300_000]
        assert server.connections == 2

    def test_threads_have_no_more_connections_than_there_are_threads(self, server: FaultServer) -> None:
        with store_of(server) as store, ThreadPoolExecutor(4) as pool:
            source = store.open(URL)
            list(pool.map(lambda n: read_at(source, 300_000 + n, 50_000), range(40)))
        assert server.connections <= 4

    def test_sources_of_one_store_share_its_connections(self, server: FaultServer) -> None:
        with store_of(server) as store:
            for _ in range(5):
                source = store.open(URL)
                read_at(source, 1_000_000, 10)
                source.close()
        assert server.connections == 1

    def test_closing_gives_every_descriptor_back(self, server: FaultServer) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        with store_of(server) as store:
            store.open(URL)
        server.wait_closed()
        before = descriptors()
        with store_of(server) as store, ThreadPoolExecutor(4) as pool:
            source = store.open(URL)
            list(pool.map(lambda n: read_at(source, 300_000 + n, 50_000), range(8)))
            # Twice as many as the client holds, since the server is in this process.
            assert descriptors() > before
            source.close()
            store.close()
            store.close()
            server.wait_closed()
            assert descriptors() == before

    def test_after_closing_nothing_is_read(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            source.close()
            source.close()
            with pytest.raises(InterruptedReadError):
                read_at(source, 0, 10)
            store.close()
            with pytest.raises(InterruptedReadError):
                store.open(URL)
        assert len(server.requests) == 1

    def test_the_buffer_is_let_go_of_even_after_failed_attempts(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL)
            server.script(reset_at_once(), reset_after(1000))
            slab = np.zeros(100_000, np.uint8)
            alive = weakref.ref(slab)
            gc.disable()
            try:
                source.read_into(1_000_000, slab.data)
                del slab
                assert alive() is None
            finally:
                gc.enable()

    def test_the_default_session_of_boto3_is_left_alone(self, server: FaultServer) -> None:
        boto3 = pytest.importorskip("boto3")
        with store_of(server) as store:
            store.open(URL)
        assert boto3.DEFAULT_SESSION is None


class TestPaths:
    @pytest.mark.parametrize(
        "key",
        [
            "a b.safetensors",
            "q?versionId=3",
            "part#1",
            "100%25",
            "a//b",
            "/leading",
            "../up/./here",
            "ünï/模型.safetensors",
            "a+b&c=d;e,f:g@h!(i)'j*~",
        ],
    )
    def test_a_key_is_taken_as_it_is_written(self, server: FaultServer, key: str) -> None:
        server.put("bucket", key, b"content")
        with store_of(server) as store:
            assert read_at(store.open(f"s3://bucket/{key}"), 0, 7) == b"content"

    @pytest.mark.parametrize("path", ["s3://", "s3:///key", "s3://bucket", "s3://bucket/", "bucket/key", "gs://b/k"])
    def test_a_url_without_a_bucket_or_a_key_is_refused(self, path: str) -> None:
        with store_of(None) as store, pytest.raises(ArgumentError, match="write s3://bucket/key"):
            store.open(path)

    def test_a_prefix_is_refused_as_a_folder_is(self) -> None:
        with store_of(None) as store, pytest.raises(IsDirectoryError, match="a prefix of keys, not an object"):
            store.open("s3://bucket/models/")

    def test_path_style_names_the_bucket_in_the_path(self, server: FaultServer) -> None:
        with store_of(server) as store:
            store.open(URL)
        assert server.requests[0].target == "/bucket/model.safetensors"

    def test_virtual_addressing_names_the_bucket_in_the_host(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Through a proxy, since no name but localhost resolves to this machine.
        monkeypatch.setenv("HTTP_PROXY", server.endpoint)
        server.virtual_host = "store.example.com"
        with store_of("http://store.example.com", virtual_addressing=True) as store:
            assert read_at(store.open(URL), 500_000, 10) == DATA[500_000:500_010]
        assert server.requests[0].target == "http://bucket.store.example.com/model.safetensors"

    def test_virtual_addressing_of_a_numeric_host_falls_back_to_paths(self, server: FaultServer) -> None:
        with store_of(server, virtual_addressing=True) as store:
            store.open(URL)
        assert server.requests[0].target == "/bucket/model.safetensors"


class TestEndpoints:
    def test_the_environment_names_the_endpoint(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        with store_of(None) as store:
            store.open(URL)
        assert len(server.requests) == 1

    def test_the_setting_wins_over_the_environment(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with store_of(server) as store:
            store.open(URL)
        assert len(server.requests) == 1

    def test_explicit_credentials_win_over_the_setting(self, server: FaultServer) -> None:
        credentials = S3Credentials("AKID", "secret", endpoint=server.endpoint)
        with store_of("http://127.0.0.1:1", credentials, retries=0) as store:
            store.open(URL)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("explicit", "variables", "profile", "region"),
        [
            ("ap-1", {"AWS_DEFAULT_REGION": "eu-1", "AWS_REGION": "us-1"}, "sa-1", "ap-1"),
            (None, {"AWS_DEFAULT_REGION": "eu-1", "AWS_REGION": "us-1"}, "sa-1", "eu-1"),
            (None, {"AWS_REGION": "us-1"}, "sa-1", "us-1"),
            (None, {}, "sa-1", "sa-1"),
            (None, {}, None, "us-east-1"),
        ],
    )
    def test_the_region_is_the_explicit_one_or_the_environments_or_the_profiles_or_a_default(
        self,
        server: FaultServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        explicit: str | None,
        variables: dict[str, str],
        profile: str | None,
        region: str,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if profile:
            aws_environment(tmp_path, configuration=f"[default]\nregion = {profile}\n")
        with store_of(server, S3Credentials("AKID", "secret", None, explicit)) as store:
            store.open(URL)
        assert f"/{region}/s3/aws4_request" in server.requests[0].headers["Authorization"]

    def test_a_certificate_of_ones_own_is_trusted_through_aws_ca_bundle(
        self, monkeypatch: pytest.MonkeyPatch, certificate: Certificate
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.certificate))
        with FaultServer(certificate) as server, store_of(server) as store:
            server.put("bucket", "model.safetensors", DATA)
            source = store.open(URL)
            assert read_at(source, 300_000, 2_000_000) == DATA[300_000:2_300_000]
            assert server.connections == 1


class TestCredentials:
    def test_the_environments_keys_are_used(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
        with store_of(server, None) as store:
            store.open(URL)
        assert access_key(server.requests[0]) == "AKIDENVIRONMENT"
        assert "X-Amz-Security-Token" not in server.requests[0].headers

    def test_temporary_keys_send_their_token(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "environment-token")
        with store_of(server, None) as store:
            store.open(URL)
        assert server.requests[0].headers["X-Amz-Security-Token"] == "environment-token"

    @pytest.mark.parametrize(("profile", "key"), [(None, "AKIDDEFAULT"), ("other", "AKIDOTHER")])
    def test_the_credentials_file_and_its_profiles_are_used(
        self,
        server: FaultServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        profile: str | None,
        key: str,
    ) -> None:
        text = (
            "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s\n"
            "[other]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = s\n"
        )
        aws_environment(tmp_path, credentials=text)
        if profile:
            monkeypatch.setenv("AWS_PROFILE", profile)
        with store_of(server, None) as store:
            store.open(URL)
        assert access_key(server.requests[0]) == key

    def test_explicit_credentials_win_over_everything_else(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        aws_environment(tmp_path, credentials="[default]\naws_access_key_id = F\naws_secret_access_key = s\n")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "environment-token")
        monkeypatch.setenv("AWS_PROFILE", "nobody-made-it")
        with store_of(server, KEYS) as store:
            store.open(URL)
        assert access_key(server.requests[0]) == "AKIDEXPLICIT"
        assert "X-Amz-Security-Token" not in server.requests[0].headers

    def test_explicit_temporary_credentials_send_their_token(self, server: FaultServer) -> None:
        with store_of(server, S3Credentials("ASIA", "secret", "explicit-token")) as store:
            store.open(URL)
        assert server.requests[0].headers["X-Amz-Security-Token"] == "explicit-token"

    def test_unsigned_requests_carry_no_signature(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
        with store_of(server, None, unsigned=True) as store:
            store.open(URL)
        assert "Authorization" not in server.requests[0].headers

    def test_explicit_credentials_sign_even_where_the_environment_says_unsigned(self, server: FaultServer) -> None:
        with store_of(server, KEYS, unsigned=True) as store:
            store.open(URL)
        assert access_key(server.requests[0]) == "AKIDEXPLICIT"

    def test_explicit_credentials_may_name_only_an_endpoint(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")
        with store_of(None, S3Credentials(endpoint=server.endpoint)) as store:
            store.open(URL)
        assert access_key(server.requests[0]) == "AKIDENVIRONMENT"

    @pytest.mark.parametrize(
        "incomplete",
        [S3Credentials("AKID"), S3Credentials(None, "a-secret"), S3Credentials(session_token="a-token")],
    )
    def test_half_a_pair_of_keys_is_refused_without_showing_it(self, incomplete: S3Credentials) -> None:
        with store_of(None, incomplete) as store, pytest.raises(CredentialsError, match="incomplete") as caught:
            store.open(URL)
        assert "a-secret" not in str(caught.value)
        assert "a-token" not in str(caught.value)

    def test_their_repr_hides_the_secret_and_the_token(self) -> None:
        shown = repr(S3Credentials("AKID", "the-secret", "the-token", "eu-west-1", "http://minio:9000"))
        assert shown == (
            "S3Credentials(access_key_id='AKID', secret_access_key='***', session_token='***', "
            "region_name='eu-west-1', endpoint='http://minio:9000')"
        )
        assert repr(S3Credentials()).count("None") == 5

    def test_they_can_be_set_and_changed_field_by_field(self, server: FaultServer) -> None:
        credentials = S3Credentials()
        credentials.access_key_id, credentials.secret_access_key = "AKID", "the-secret"
        credentials.endpoint = server.endpoint
        assert "the-secret" not in repr(credentials)
        assert len({credentials, S3Credentials()}) == 2
        with store_of(None, credentials) as store:
            store.open(URL).close()
        assert access_key(server.requests[0]) == "AKID"


def test_an_object_on_motos_server_is_read_in_threads() -> None:
    with moto_server() as moto:
        moto.put("models", "a b/model.safetensors", DATA)
        with store_of(moto) as store, ThreadPoolExecutor(4) as pool:
            source = store.open("s3://models/a b/model.safetensors")
            parts = pool.map(lambda at: read_at(source, at, 300_000), range(0, len(DATA), 300_000))
            assert b"".join(parts) == DATA


def test_an_empty_object_on_motos_server_has_no_bytes() -> None:
    with moto_server() as moto:
        moto.put("models", "empty", b"")
        with store_of(moto) as store:
            assert store.open("s3://models/empty").size == 0


def test_opening_from_many_threads_makes_one_client(server: FaultServer) -> None:
    together = threading.Barrier(8)

    def open_one(_: int) -> ObjectSource[Access]:
        together.wait()
        return store.open(URL)

    with store_of(server) as store, ThreadPoolExecutor(8) as pool:
        assert {source.size for source in pool.map(open_one, range(8))} == {len(DATA)}
        assert len({id(store.access()) for _ in range(3)}) == 1
