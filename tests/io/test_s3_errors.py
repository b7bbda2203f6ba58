"""What the user reads when object storage says no, and what must never be read in it."""

import contextlib
import logging
import re
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runai_model_streamer import errors
from runai_model_streamer.io.s3 import PREFIX_BYTES, S3Store
from runai_model_streamer.io.s3_credentials import S3Credentials
from tests.io.transports import URL, s3_config, store_of
from tests.servers import (
    Certificate,
    Exchange,
    Fault,
    FaultServer,
    aws_environment,
    garbage,
    moto_server,
    other_range,
    refuse,
    shorter,
    stall_before_headers,
    whole_object,
)

KEYS = S3Credentials("AKIDEXPLICIT", "explicit-secret", "explicit-token")
DATA = bytes(1_000_000)
FACTS = rf"bytes 0-{PREFIX_BYTES}, (1 attempt|2 attempts) in \d\.\d s\)\. "

pytestmark = pytest.mark.usefixtures("aws_files", "transport")


def failure(
    endpoint: str | None,
    path: str = URL,
    *,
    credentials: S3Credentials | None = KEYS,
    virtual: bool = False,
    unsigned: bool = False,
    timeout: float = 5.0,
) -> errors.StreamerError:
    """The error of opening an object, without a second attempt."""
    with store_of(
        endpoint, credentials, retries=0, virtual_addressing=virtual, unsigned=unsigned, timeout=timeout
    ) as store:
        with pytest.raises(errors.StreamerError) as caught:
            store.open(path)
        return caught.value


@dataclass(frozen=True)
class Refusal:
    """An answer of the store, and the error it becomes."""

    status: int
    code: str
    kind: type[errors.StreamerError]
    says: str
    does: str
    headers: Mapping[str, str | None] = field(default_factory=dict)
    detail: str = ""


REFUSALS = [
    Refusal(404, "NoSuchKey", errors.NotFoundError, "there is no such object in bucket bucket", "Check the key"),
    Refusal(404, "", errors.NotFoundError, "there is no such object", "Check the key"),
    Refusal(404, "NoSuchBucket", errors.NotFoundError, "there is no bucket bucket", "AWS_ENDPOINT_URL"),
    Refusal(403, "AccessDenied", errors.AccessDeniedError, "access denied", "Grant these credentials s3:GetObject"),
    Refusal(403, "", errors.AccessDeniedError, "access denied", "Grant these credentials s3:GetObject"),
    Refusal(403, "InvalidObjectState", errors.ReadError, "the object is archived", "Glacier"),
    Refusal(403, "InvalidAccessKeyId", errors.CredentialsError, "does not know the access key", "AWS_ACCESS_KEY_ID"),
    Refusal(403, "SignatureDoesNotMatch", errors.CredentialsError, "the secret access key is not", "AWS_SECRET_ACC"),
    Refusal(403, "RequestTimeTooSkewed", errors.CredentialsError, "clock", "Set the clock"),
    Refusal(400, "ExpiredToken", errors.CredentialsError, "the credentials have expired", "AWS_SESSION_TOKEN"),
    Refusal(400, "InvalidToken", errors.CredentialsError, "does not accept the session token", "AWS_SESSION_TOKEN"),
    Refusal(401, "", errors.CredentialsError, "does not accept the credentials", "AWS_ACCESS_KEY_ID"),
    Refusal(412, "PreconditionFailed", errors.SourceChangedError, "was written to", "Load it again"),
    Refusal(429, "TooManyRequests", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_CONCURRENCY"),
    Refusal(500, "InternalError", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_S3_MAX_RETRIES"),
    Refusal(503, "SlowDown", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_CONCURRENCY"),
    Refusal(418, "Teapot", errors.ReadError, "the store refused the request", "Check AWS_ENDPOINT_URL"),
    Refusal(
        301,
        "PermanentRedirect",
        errors.ReadError,
        r"the store redirects to bucket\.s3\.eu-west-1\.amazonaws\.com",
        "Give that endpoint",
        detail="<Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint>",
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.status} {case.code}".strip())
def test_a_refusal_becomes_an_error_that_says_what_came_back_and_what_to_do(server: FaultServer, case: Refusal) -> None:
    answer = refuse(case.status, case.code, case.headers, case.detail)
    server.choose = lambda request: answer
    error = failure(server.endpoint)
    assert type(error) is case.kind
    status = f"HTTP {case.status} {case.code}".rstrip()
    assert re.match(rf"{URL}: .*{case.says}.* \({status}, request id REQUEST\d, {FACTS}.*{case.does}", str(error)), (
        error
    )
    assert error.__cause__ is not None


def test_the_bucket_of_another_region_is_named_by_the_servers_header(server: FaultServer) -> None:
    # Sent on to the region, botocore asks the same endpoint again: it is not AWS's.
    server.choose = lambda request: refuse(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"})
    error = failure(server.endpoint)
    assert "bucket bucket is in region eu-west-1 (HTTP 301 PermanentRedirect" in str(error)
    assert "Set AWS_DEFAULT_REGION=eu-west-1" in str(error)


def test_an_endpoint_that_redirects_everything_is_named_with_where_it_leads(server: FaultServer) -> None:
    server.choose = lambda request: refuse(301, "", {"Location": "https://store.example.com/"})
    error = failure(server.endpoint)
    assert "the store redirects to https://store.example.com/ (HTTP 301, " in str(error)
    # botocore looks for the bucket's region once, and would go on with that until the stack overflows.
    assert [request.method for request in server.requests] == ["GET", "HEAD"]


def test_without_permission_and_without_a_signature_the_way_out_is_credentials(server: FaultServer) -> None:
    server.script(refuse(403, "AccessDenied"))
    error = failure(server.endpoint, credentials=None, unsigned=True)
    assert "unset RUNAI_STREAMER_S3_UNSIGNED and give credentials" in str(error)


def test_the_stores_own_words_are_quoted_where_they_say_more(server: FaultServer) -> None:
    server.script(refuse(403, "AccessDenied"))
    assert 'The store says: "AccessDenied it is".' in str(failure(server.endpoint))


def test_a_missing_object_on_motos_server_is_not_found() -> None:
    with moto_server() as moto:
        moto.put("bucket", "other", b"x")
        assert "no such object in bucket bucket (HTTP 404 NoSuchKey" in str(failure(moto.endpoint))
        assert "no bucket nobody (HTTP 404 NoSuchBucket" in str(failure(moto.endpoint, "s3://nobody/key"))


def of_unknown_length(exchange: Exchange) -> None:
    exchange.head(headers={"Content-Range": f"bytes 0-{PREFIX_BYTES - 1}/*"})
    exchange.send(exchange.asked)


class TestAnswersThatDoNotFit:
    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            (whole_object(), r"the server ignored Range and sent the whole object \(HTTP 200"),
            (other_range(100), r"asked for bytes 0-262144, the store sent bytes 100-262244"),
            (shorter(7), r"in a body of 262137 bytes"),
            (lambda exchange: exchange.head(headers={"Content-Range": None}), "does not say which bytes"),
            (of_unknown_length, "does not say how long"),
        ],
    )
    def test_are_errors_at_once_and_never_data(self, server: FaultServer, fault: Fault, says: str) -> None:
        server.script(fault)
        error = failure(server.endpoint)
        assert type(error) is errors.ReadError
        assert re.search(says, str(error)), error
        assert len(server.requests) == 1

    def test_include_those_that_are_not_http(self, server: FaultServer) -> None:
        server.script(garbage())
        error = failure(server.endpoint)
        assert type(error) is errors.StorageUnreachableError
        assert f"127.0.0.1:{server.port} does not speak HTTP" in str(error)


class TestTheWayToTheStore:
    def test_a_refused_connection_names_the_host_and_the_setting(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        error = failure(f"http://127.0.0.1:{port}")
        assert type(error) is errors.StorageUnreachableError
        assert re.match(
            rf"{URL}: no connection to 127\.0\.0\.1:{port}: Connection refused \({FACTS}Check AWS_ENDPOINT_URL",
            str(error),
        )

    def test_an_unknown_host_with_the_buckets_name_hints_at_path_style(self) -> None:
        error = failure("http://store.invalid", virtual=True)
        assert type(error) is errors.StorageUnreachableError
        assert "no connection to bucket.store.invalid: " in str(error)
        assert "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING=0" in str(error)

    def test_an_unknown_host_without_the_buckets_name_does_not(self) -> None:
        assert "VIRTUAL_ADDRESSING" not in str(failure("http://store.invalid"))

    def test_no_answer_within_the_timeout_names_the_setting(self, server: FaultServer) -> None:
        server.script(stall_before_headers())
        error = failure(server.endpoint, timeout=0.2)
        assert type(error) is errors.StorageTimeoutError
        assert f"127.0.0.1:{server.port} sent nothing for 0.2 s" in str(error)
        assert "RUNAI_STREAMER_S3_TIMEOUT" in str(error)

    def test_an_unknown_certificate_hints_at_the_bundle(self, certificate: Certificate) -> None:
        with FaultServer(certificate) as server:
            error = failure(server.endpoint)
        assert type(error) is errors.StorageUnreachableError
        assert "is not trusted: self-signed certificate" in str(error)
        assert "Set AWS_CA_BUNDLE" in str(error)

    def test_a_missing_bundle_is_an_error_of_the_setting(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
        with FaultServer(certificate) as server:
            error = failure(server.endpoint)
        assert type(error) is errors.ConfigError
        assert "AWS_CA_BUNDLE" in str(error)

    def test_https_to_a_server_without_tls_hints_at_http(self, server: FaultServer) -> None:
        error = failure(f"https://127.0.0.1:{server.port}")
        assert type(error) is errors.StorageUnreachableError
        assert f"127.0.0.1:{server.port} does not speak TLS" in str(error)
        assert "http:// instead of https://" in str(error)

    def test_an_unreachable_proxy_is_told_from_an_unreachable_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("HTTP_PROXY", f"http://user:planted@127.0.0.1:{free.getsockname()[1]}")
        error = failure("http://store.invalid")
        assert type(error) is errors.StorageUnreachableError
        assert "no connection through the proxy: Connection refused" in str(error)
        assert "NO_PROXY" in str(error)
        assert "planted" not in "".join(traceback.format_exception(error))


class TestSettings:
    def test_without_credentials_the_ways_to_give_them_are_named(self, server: FaultServer) -> None:
        error = failure(server.endpoint, credentials=None)
        assert type(error) is errors.CredentialsError
        assert isinstance(error, PermissionError)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "S3Credentials(...)", "RUNAI_STREAMER_S3_UNSIGNED=1"):
            assert name in str(error)
        assert not server.requests

    def test_half_of_a_pair_of_keys_names_the_other_half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.CredentialsError
        assert "AWS_SECRET_ACCESS_KEY is missing (env)" in str(error)

    def test_a_profile_that_does_not_exist_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.CredentialsError
        assert "there is no profile 'nobody'" in str(error)

    def test_a_configuration_that_cannot_be_parsed_is_named(self, tmp_path: Path) -> None:
        aws_environment(tmp_path, configuration="[[[\n")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.ConfigError
        assert f"the file {tmp_path}/aws-config cannot be read" in str(error)

    @pytest.mark.parametrize(
        ("configuration", "provider"),
        [
            ("[default]\ncredential_process = /bin/false\n", "custom-process"),
            (
                "[default]\nsso_start_url = http://a\nsso_region = r\nsso_account_id = 1\nsso_role_name = r\n",
                "SSOTokenLoadError",
            ),
        ],
    )
    def test_a_failing_provider_of_credentials_is_named(
        self, tmp_path: Path, configuration: str, provider: str
    ) -> None:
        aws_environment(tmp_path, configuration=configuration)
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.CredentialsError
        assert f"no credentials from {provider}" in str(error)
        assert "Log in again" in str(error)

    def test_a_missing_file_of_a_web_identity_is_an_error_of_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.CredentialsError
        assert "/nonexistent/token" in str(error)

    @pytest.mark.parametrize("endpoint", ["minio", "minio:9000", "http://user:planted@a b"])
    def test_an_endpoint_that_is_no_url_is_named(self, endpoint: str) -> None:
        error = failure(endpoint)
        assert type(error) is errors.ConfigError
        assert "is no URL of an endpoint" in str(error)
        assert "Write it as http://host:port" in str(error)
        assert "planted" not in "".join(traceback.format_exception(error))

    def test_a_region_that_is_none_is_named(self) -> None:
        error = failure("http://127.0.0.1:1", credentials=S3Credentials("AKID", "secret", None, "us east"))
        assert type(error) is errors.ConfigError
        assert "'us east' is no name of a region" in str(error)

    def test_a_bucket_name_that_cannot_be_one_is_named(self) -> None:
        error = failure("http://127.0.0.1:1", "s3://my bucket/key")
        assert type(error) is errors.ArgumentError
        assert "'my bucket' is no name of a bucket" in str(error)


class TestSecrets:
    PLANTED = S3Credentials("AKIDPLANTED", "PLANTED-SECRET-KEY", "PLANTED-SESSION-TOKEN")

    def assert_silent(self, error: BaseException, log: str = "") -> None:
        for text in (*traceback.format_exception(error), log):
            assert "PLANTED-" not in text
            assert "Signature=" not in text or "Signature=***" in text

    @pytest.mark.parametrize(
        ("message", "detail"),
        [
            ("The token PLANTED-SESSION-TOKEN has a fault", ""),
            ("The provided token is strange", "<Token-0>PLANTED-SESSION-TOKEN</Token-0>"),
            ("http://h/k?X-Amz-Signature=0123&X-Amz-Security-Token=PLANTED-SESSION-TOKEN", ""),
        ],
    )
    @pytest.mark.parametrize("status", [400, 403, 503])
    def test_a_server_that_repeats_them_is_not_quoted(
        self, server: FaultServer, caplog: pytest.LogCaptureFixture, message: str, detail: str, status: int
    ) -> None:
        server.choose = lambda request: refuse(status, "Strange", None, detail, message)
        config = s3_config(server.endpoint, virtual_addressing=False, max_retries=1)
        with contextlib.closing(S3Store(config, self.PLANTED, 1)) as store:
            with (
                caplog.at_level(logging.DEBUG, "runai_model_streamer"),
                pytest.raises(errors.StreamerError) as caught,
            ):
                store.open(URL)
            self.assert_silent(caught.value, caplog.text)

    def test_a_token_that_nobody_here_knows_is_told_by_its_length(self, server: FaultServer) -> None:
        token = "FwoGZXIvYXdzEBYaDHqa0AP" * 4
        server.script(refuse(403, "AccessDenied", message=f"no: {token}."))
        error = failure(server.endpoint, credentials=self.PLANTED)
        assert 'The store says: "no: ***"' in str(error)
        assert token not in "".join(traceback.format_exception(error))

    @pytest.mark.parametrize(
        "credentials",
        [
            S3Credentials("AKID", "PLANTED-SECRET-KEY", "PLANTED-SESSION-TOKEN\n"),
            S3Credentials("AKID\nPLANTED-KEY", "PLANTED-SECRET-KEY"),
        ],
    )
    def test_keys_that_fit_into_no_header_are_refused_without_showing_them(
        self, server: FaultServer, credentials: S3Credentials
    ) -> None:
        error = failure(server.endpoint, credentials=credentials)
        assert type(error) is errors.CredentialsError
        assert "Look for a line break" in str(error)
        self.assert_silent(error)

    def test_a_successful_load_logs_none(self, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
        config = s3_config(server.endpoint, virtual_addressing=False)
        with contextlib.closing(S3Store(config, self.PLANTED, 1)) as store:
            with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
                source = store.open(URL)
                source.read_into(400_000, memoryview(bytearray(10)))
            assert "model.safetensors: 1000000 bytes" in caplog.text
            self.assert_silent(Exception(repr([store, source, store.access(), self.PLANTED])), caplog.text)
