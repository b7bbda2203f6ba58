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
from botocore.exceptions import ProxyConnectionError

from runai_model_streamer import errors
from runai_model_streamer.config import S3Config
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.diagnosis import identify
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.provenance import Provenance
from runai_model_streamer.io.s3.errors.translation import translated
from runai_model_streamer.io.s3.listing import has_keys
from runai_model_streamer.io.s3.store import S3Store
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
    reset_at_once,
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
    Refusal(404, "NoSuchBucket", errors.NotFoundError, "there is no bucket bucket", "The endpoint is http://"),
    Refusal(403, "AccessDenied", errors.AccessDeniedError, "access denied", "Grant these credentials s3:GetObject"),
    Refusal(403, "", errors.AccessDeniedError, "access denied", "Grant these credentials s3:GetObject"),
    Refusal(403, "InvalidObjectState", errors.ReadError, "the object is archived", "Glacier"),
    Refusal(
        403, "InvalidAccessKeyId", errors.CredentialsError, "does not know the access key id", "are from S3Credentials"
    ),
    Refusal(
        403, "SignatureDoesNotMatch", errors.CredentialsError, "the secret access key does not belong", "AWS_SECRET_ACC"
    ),
    Refusal(403, "RequestTimeTooSkewed", errors.CredentialsError, "clock", "Set the clock"),
    Refusal(400, "ExpiredToken", errors.CredentialsError, "the credentials have expired", "AWS_SESSION_TOKEN"),
    Refusal(400, "InvalidToken", errors.CredentialsError, "does not accept the session token", "AWS_SESSION_TOKEN"),
    Refusal(401, "", errors.CredentialsError, "does not accept the credentials", "AWS_ACCESS_KEY_ID"),
    Refusal(407, "", errors.StorageUnreachableError, "no connection through the proxy: it does not", "HTTP_PROXY"),
    Refusal(412, "PreconditionFailed", errors.SourceChangedError, "was written to", "Load it again"),
    Refusal(429, "TooManyRequests", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_CONNECTIONS"),
    Refusal(500, "InternalError", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_S3_MAX_RETRIES"),
    Refusal(503, "SlowDown", errors.ReadError, "failing or overloaded", "RUNAI_STREAMER_CONNECTIONS"),
    Refusal(418, "Teapot", errors.ReadError, "the store refused the request", "The endpoint is http://"),
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


def test_control_characters_of_an_answer_are_written_out(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    planted = "R\x1b[2J\x9bQ"
    server.choose = lambda request: refuse(503, "", {"x-amz-request-id": planted, "Location": planted})
    with (
        caplog.at_level(logging.INFO, "runai_model_streamer"),
        store_of(server, retries=1) as store,
        pytest.raises(errors.ReadError) as caught,
    ):
        store.open(URL)
    for text in (str(caught.value), *(record.getMessage() for record in caplog.records)):
        assert r"R\x1b[2J\x9bQ" in text
        assert text.isprintable()


def test_control_characters_of_the_place_that_a_store_redirects_to_are_written_out(server: FaultServer) -> None:
    server.choose = lambda request: refuse(301, "", {"Location": "http://store/\x1b[2J"})
    assert str(failure(server.endpoint)).isprintable()


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
            rf"{URL}: no connection to 127\.0\.0\.1:{port}: Connection refused \({FACTS}"
            rf"The endpoint is http://127\.0\.0\.1:{port}, from RUNAI_STREAMER_S3_ENDPOINT\. Check its host and port",
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
        assert f"127.0.0.1:{server.port} sent no answer, or no more of it, for 0.2 s" in str(error)
        assert "RUNAI_STREAMER_S3_TIMEOUT" in str(error)

    def test_an_unknown_certificate_hints_at_the_bundle(self, certificate: Certificate) -> None:
        with FaultServer(certificate) as server:
            error = failure(server.endpoint)
        assert type(error) is errors.StorageUnreachableError
        assert "is not trusted: self-signed certificate" in str(error)
        assert "Set AWS_CA_BUNDLE" in str(error)

    @pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
    @pytest.mark.parametrize("name", ["missing.pem", "folder", "words.pem", "broken.pem"])
    def test_a_bundle_that_is_none_is_an_error_of_the_setting_at_once(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, name: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "words.pem").write_text("no certificates\n")
        (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        monkeypatch.setenv(variable, str(tmp_path / name))
        with FaultServer(certificate) as server, store_of(server) as store:
            for ask in (store.open, lambda path: has_keys(store, path)):
                with pytest.raises(errors.ConfigError) as caught:
                    ask(URL)
                assert "the file of trusted certificates cannot be read (" in str(caught.value)
                assert "1 attempt in" in str(caught.value)
                assert variable in str(caught.value)

    def test_https_to_a_server_without_tls_hints_at_http(self, server: FaultServer) -> None:
        error = failure(f"https://127.0.0.1:{server.port}")
        assert type(error) is errors.StorageUnreachableError
        assert f"127.0.0.1:{server.port} does not speak TLS" in str(error)
        assert f"Write http://127.0.0.1:{server.port}, or the port at which it speaks TLS" in str(error)

    def test_an_unreachable_proxy_is_told_from_an_unreachable_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("HTTP_PROXY", f"http://user:planted@127.0.0.1:{free.getsockname()[1]}")
        error = failure("http://store.invalid")
        assert type(error) is errors.StorageUnreachableError
        assert "no connection through the proxy: Connection refused" in str(error)
        assert "NO_PROXY" in str(error)
        assert "planted" not in "".join(traceback.format_exception(error))


class TestWhatIsNamed:
    """Which setting, what value: the endpoint that was asked, the credentials that were sent."""

    def test_the_endpoint_with_what_set_it(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        assert f"The endpoint is {server.endpoint}, from RUNAI_STREAMER_S3_ENDPOINT." in str(
            failure(server.endpoint, "s3://other/key")
        )
        explicit = S3Credentials("AKID", "explicit-secret", endpoint=server.endpoint)
        told = str(failure("http://store.invalid", "s3://other/key", credentials=explicit))
        assert f"The endpoint is {server.endpoint}, from S3Credentials(endpoint=...)." in told
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        told = str(failure(None, "s3://other/key"))
        assert f"The endpoint is {server.endpoint}, from AWS_ENDPOINT_URL or the profile." in told

    def test_aws_itself_where_no_endpoint_is_set(self) -> None:
        known = Provenance.of(S3Config(), None, "https://s3.eu-west-1.amazonaws.com", None, None, "")
        assert known.endpoint_sentence() == (
            "s3.eu-west-1.amazonaws.com is AWS itself: for another store, set AWS_ENDPOINT_URL to its URL."
        )
        assert not Provenance.of(S3Config(), None, "https://amazonaws.com.example.org", None, None, "").is_aws

    def test_a_password_in_the_endpoint_is_not(self, server: FaultServer) -> None:
        error = failure(f"http://user:planted@127.0.0.1:{server.port}", "s3://other/key")
        assert f"The endpoint is http://127.0.0.1:{server.port}, " in str(error)
        assert "planted" not in "".join(traceback.format_exception(error))

    def test_where_the_refused_credentials_are_from(
        self, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.choose = lambda request: refuse(403, "InvalidAccessKeyId")
        told = str(failure(server.endpoint))
        assert "The credentials are from S3Credentials(...)." in told
        assert (
            f"one of this store, and not swapped with the secret access key. The endpoint is {server.endpoint}" in told
        )
        aws_environment(tmp_path, credentials="[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
        told = str(failure(server.endpoint, credentials=None))
        assert "are from profile 'default' (AWS_PROFILE chooses it) in AWS's credentials file." in told
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
        told = str(failure(server.endpoint, credentials=None))
        assert "The credentials are from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY." in told

    @pytest.mark.parametrize(
        "variables",
        [{}, {"AWS_PROFILE": "work"}, {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}],
        ids=["default profile", "chosen profile", "environment"],
    )
    def test_the_doctor_says_where_they_are_from_in_the_same_words(
        self, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
    ) -> None:
        server.choose = lambda request: refuse(403, "InvalidAccessKeyId")
        keys = "aws_access_key_id = A\naws_secret_access_key = B\n"
        aws_environment(tmp_path, credentials=f"[default]\n{keys}[work]\n{keys}")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        origin = identify(s3_config(server.endpoint)).origin
        assert f"The credentials are from {origin}." in str(failure(server.endpoint, credentials=None))

    def test_every_way_of_botocores_to_find_credentials_has_its_name(self) -> None:
        from botocore import credentials

        ways = {str(each.METHOD) for each in vars(credentials).values() if getattr(each, "METHOD", None)}
        former = {"boto-config", "ec2-credentials-file"}
        told = {way: Provenance(credentials_from=way).credentials_sentence() for way in ways - former}
        assert [way for way, text in told.items() if text == f"The credentials are from {way}."] == []

    @pytest.mark.parametrize(("secret", "told"), [("a-secret-key\n", True), ("a-secret-key", False)])
    def test_white_space_around_the_secret(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch, secret: str, told: bool
    ) -> None:
        server.choose = lambda request: refuse(403, "SignatureDoesNotMatch")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        found = str(failure(server.endpoint, credentials=None))
        assert ("The secret access key has white space around it: remove it." in found) is told

    def test_the_command_that_lists_asks_the_same_store(self, server: FaultServer) -> None:
        error = failure(server.endpoint, "s3://bucket/modell.safetensors")
        assert f"aws s3 ls s3://bucket/ --endpoint-url {server.endpoint} (if it is a folder, list_saf" in str(error)

    def test_a_bucket_in_the_endpoint(self, server: FaultServer) -> None:
        error = failure(f"{server.endpoint}/bucket")
        assert type(error) is errors.NotFoundError
        assert f"The endpoint is {server.endpoint}/bucket, from " in str(error)
        assert "Its path precedes every bucket: if it names the bucket, leave it out" in str(error)


def _says_what_go_says(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
    exchange.hang_up()


def _says_what_nginx_says(exchange: Exchange) -> None:
    page = b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"
    exchange.send(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page))
    exchange.send(page)


class TestPlainHttpWhereTlsIsSpoken:
    @pytest.mark.parametrize("says", [_says_what_go_says, _says_what_nginx_says])
    def test_hints_at_https_where_the_server_says_so(self, server: FaultServer, says: Fault) -> None:
        server.choose = lambda request: says
        error = failure(server.endpoint)
        assert f"write https://127.0.0.1:{server.port} instead" in str(error)

    def test_hints_at_https_where_the_server_hangs_up(self, certificate: Certificate) -> None:
        with FaultServer(certificate) as server:
            error = failure(f"http://127.0.0.1:{server.port}")
        assert type(error) is errors.StorageUnreachableError
        assert f"If it speaks TLS at this port, write https://127.0.0.1:{server.port} instead. Otherwise " in str(error)

    def test_does_not_where_the_store_has_answered_before(self, server: FaultServer) -> None:
        config = s3_config(server.endpoint, False, max_retries=0)
        with contextlib.closing(S3Store(config, KEYS, 1)) as store:
            source = store.open(URL)
            server.choose = lambda request: reset_at_once()
            with pytest.raises(errors.StorageUnreachableError) as caught:
                source.read_into(500_000, memoryview(bytearray(100)))
        assert "TLS" not in str(caught.value)


def test_a_web_page_is_told_from_an_object(server: FaultServer) -> None:
    page = b"<html>Sign in</html>"
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page)), "Content-Range": None}

    def console(exchange: Exchange) -> None:
        exchange.head(200, headers)
        exchange.send(page)

    server.script(console)
    error = failure(server.endpoint)
    assert type(error) is errors.ReadError
    assert "the server sent a web page, not the object (HTTP 200" in str(error)
    assert "the port of a web console" in str(error)


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

    @pytest.mark.parametrize(("name", "why"), [("missing", "No such file or directory"), ("", "Is a directory")])
    def test_a_file_of_a_web_identity_that_cannot_be_read_is_an_error_of_credentials_at_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, why: str
    ) -> None:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / name))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
        with store_of("http://127.0.0.1:1", None) as store:
            with pytest.raises(errors.CredentialsError, match=f": {tmp_path / name}: {why}") as caught:
                store.open(URL)
            assert "AWS_WEB_IDENTITY_TOKEN_FILE" in str(caught.value)
            assert store.retries == 0

    def test_a_credential_process_that_is_no_program_is_an_error_of_credentials(self, tmp_path: Path) -> None:
        (tmp_path / "program").write_text("not to be executed")
        aws_environment(tmp_path, configuration=f"[default]\ncredential_process = {tmp_path}/program\n")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.CredentialsError
        assert f"cannot be used: {tmp_path}/program: Permission denied" in str(error)
        assert "credential_process" in str(error)

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("AWS_METADATA_SERVICE_TIMEOUT", "soon", "invalid literal for int"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/", "Unsupported host 'example.com'"),
            ("credential_process", "echo Hello", "Expecting value: line 1 column 1"),
            ("credential_process", "echo 'Hello", "No closing quotation"),
            ("credential_process", "echo [1]", "AttributeError: 'list' object has no attribute 'get'"),
            ("s3", "path", "AttributeError: 'str' object has no attribute 'get'"),
        ],
    )
    def test_what_botocore_cannot_parse_is_an_error_of_settings(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, says: str
    ) -> None:
        if name.isupper():
            monkeypatch.setenv(name, value)
        else:
            aws_environment(tmp_path, configuration=f"[default]\n{name} = {value}\n")
        error = failure("http://127.0.0.1:1", credentials=None)
        assert type(error) is errors.ConfigError
        assert f"AWS's settings cannot be used: {says}" in str(error)

    @pytest.mark.parametrize("endpoint", ["minio", "minio:9000", "http://user:planted@a b"])
    def test_an_endpoint_that_is_no_url_is_named(self, endpoint: str) -> None:
        error = failure(endpoint)
        assert type(error) is errors.ConfigError
        assert "is not the URL of an endpoint" in str(error)
        assert "Write it as http://host:port or https://host, in AWS_ENDPOINT_URL, RUNAI_" in str(error)
        assert "planted" not in "".join(traceback.format_exception(error))

    def test_a_setting_of_aws_that_cannot_be_used_is_told(self, tmp_path: Path) -> None:
        aws_environment(tmp_path, configuration="[default]\nservices = mine\n")
        error = failure(None)
        assert type(error) is errors.ConfigError
        assert "AWS's settings cannot be used: The profile is configured to use the services section" in str(error)

    def test_a_region_that_is_none_is_named(self) -> None:
        error = failure("http://127.0.0.1:1", credentials=S3Credentials("AKID", "secret", None, "us east"))
        assert type(error) is errors.ConfigError
        assert "'us east' is not a region" in str(error)

    def test_a_bucket_name_that_aws_cannot_have_is_named(self) -> None:
        error = failure(None, "s3://my bucket/key")
        assert type(error) is errors.ArgumentError
        assert "'my bucket' is not a bucket name" in str(error)


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

    def test_what_an_error_was_made_from_is_not_shown_either_where_it_gives_one_away(self) -> None:
        error = ProxyConnectionError(proxy_url="the proxy", error="it is none")
        error.__cause__ = OSError("cannot use 'http://user:PLANTED-P@SSWORD@proxy:3128'")
        made = translated(error, RequestContext(URL, "bucket", None, 1, 0.0, 1.0))
        assert type(made) is errors.StorageUnreachableError
        self.assert_silent(made)
        assert "no connection through the proxy: cannot use 'http://***@proxy:3128'" in str(made)

    def test_a_successful_load_logs_none(self, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
        config = s3_config(server.endpoint, virtual_addressing=False)
        with contextlib.closing(S3Store(config, self.PLANTED, 1)) as store:
            with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
                source = store.open(URL)
                source.read_into(400_000, memoryview(bytearray(10)))
            assert "model.safetensors: 1000000 bytes" in caplog.text
            self.assert_silent(Exception(repr([store, source, store.access(), self.PLANTED])), caplog.text)
