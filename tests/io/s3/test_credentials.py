"""Whom a load trusts, for objects, for listings and for credentials alike; and providers that give none."""

import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.httpsession import get_cert_path

from runai_model_streamer.errors import (
    ConfigError,
    CredentialsError,
    ReadError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.s3.listing import has_keys
from tests.io.transports import URL, store_of
from tests.servers import Certificate, FaultServer, aws_environment

DATA = bytes(1_000_000)

ORDER = ("AWS_CA_BUNDLE", "ca_bundle", "REQUESTS_CA_BUNDLE")
"""The second is of the profile."""

pytestmark = pytest.mark.usefixtures("aws_files", "transport")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Variables":
    return Variables(monkeypatch, tmp_path)


class Variables:
    """Sets what names a file of certificates."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._folder = folder

    def set(self, name: str, value: str) -> None:
        if name == "ca_bundle":
            aws_environment(self._folder, configuration=f"[default]\nca_bundle = {value}\n")
        else:
            self._monkeypatch.setenv(name, value)


class TestCertificates:
    @pytest.mark.parametrize(("first", "before"), [(0, None), (1, None), (1, ""), (2, None), (2, ""), (2, " ")])
    def test_the_first_that_is_named_and_not_empty_is_trusted_for_objects_and_listings(
        self, certificate: Certificate, variables: Variables, first: int, before: str | None
    ) -> None:
        for name in ORDER[:first]:
            if before is not None:
                variables.set(name, before)
        variables.set(ORDER[first], str(certificate.certificate))
        for name in ORDER[first + 1 :]:
            variables.set(name, "/nonexistent")
        with FaultServer(certificate) as server, store_of(server) as store:
            server.put("bucket", "model.safetensors", DATA)
            assert store.open(URL).size == len(DATA)
            assert has_keys(store, "s3://bucket/")

    @pytest.mark.parametrize("name", ORDER)
    @pytest.mark.parametrize("value", ["", " ", str(get_cert_path(True))])
    def test_no_other_value_makes_anybody_trusted(
        self, certificate: Certificate, variables: Variables, name: str, value: str
    ) -> None:
        variables.set(name, value)
        with FaultServer(certificate) as server, store_of(server) as store:
            for ask in (store.open, lambda path: has_keys(store, path)):
                with pytest.raises(StorageUnreachableError, match="is not trusted"):
                    ask(URL)
            assert not server.requests

    def test_an_empty_value_makes_nobody_trusted_who_gives_credentials(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: FaultServer
    ) -> None:
        (tmp_path / "token").write_text("a token")
        with FaultServer(certificate) as provider:
            for name, value in {
                "AWS_CA_BUNDLE": "",
                "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
                "AWS_ENDPOINT_URL_STS": provider.endpoint,
            }.items():
                monkeypatch.setenv(name, value)
            with (
                store_of(server, None, retries=0) as store,
                pytest.raises(StorageUnreachableError, match=rf"of 127.0.0.1:{provider.port} is not trusted"),
            ):
                store.open(URL)
            assert not provider.requests


class Sts(ThreadingHTTPServer):
    """A provider of credentials that says to everybody what it is told to."""

    says = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StsHandler)


class StsHandler(BaseHTTPRequestHandler):
    server: Sts

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.says.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def granted(expiration: str) -> str:
    """An answer of STS's."""
    name = "AssumeRoleWithWebIdentity"
    return (
        f"<{name}Response><{name}Result><Credentials><AccessKeyId>ASIA</AccessKeyId>"
        "<SecretAccessKey>PLANTED-SECRET</SecretAccessKey><SessionToken>PLANTED-TOKEN</SessionToken>"
        f"<Expiration>{expiration}</Expiration></Credentials></{name}Result></{name}Response>"
    )


class TestProviders:
    """STS gives credentials to those with a web identity, as in EKS's pods."""

    @pytest.fixture
    def sts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sts]:
        (tmp_path / "token").write_text("a token")
        with Sts() as sts:
            threading.Thread(target=sts.serve_forever).start()
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.server_address[1]}")
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            yield sts
            sts.shutdown()

    def failure(self, server: FaultServer) -> StreamerError:
        with store_of(server, None) as store, pytest.raises(StreamerError) as caught:
            store.open(URL)
        assert "PLANTED" not in "".join(traceback.format_exception(caught.value))
        assert not server.requests
        assert "1 attempt" in str(caught.value) or "attempt" not in str(caught.value)
        return caught.value

    def test_what_it_gives_is_used(self, server: FaultServer, sts: Sts) -> None:
        sts.says = granted("2100-01-01T00:00:00Z")
        with store_of(server, None) as store:
            assert store.open(URL).size == len(DATA)
        assert "Credential=ASIA/" in server.requests[0].headers["Authorization"]

    def test_what_has_expired_when_it_comes_is_told_with_the_clock(self, server: FaultServer, sts: Sts) -> None:
        sts.says = granted("2000-01-01T00:00:00Z")
        error = self.failure(server)
        assert type(error) is CredentialsError
        assert "the credentials have expired, and so have the ones that replaced them" in str(error)
        assert "clock" in str(error)

    @pytest.mark.parametrize("says", ["<!doctype html><br>", granted("2100-01-01T00:00:00Z")[:-10]])
    def test_what_is_no_answer_is_told_and_not_shown(self, server: FaultServer, sts: Sts, says: str) -> None:
        sts.says = says
        error = self.failure(server)
        assert type(error) is ReadError
        assert "the answer is neither a store's nor a credential provider's" in str(error)

    def test_an_answer_without_credentials_is_told(self, server: FaultServer, sts: Sts) -> None:
        sts.says = granted("2100-01-01T00:00:00Z").replace("AssumeRoleWithWebIdentityResult", "Other")
        error = self.failure(server)
        assert type(error) is CredentialsError
        assert "gave none that can be used: KeyError: 'AssumeRoleWithWebIdentityResult'" in str(error)
        assert "AWS_ENDPOINT_URL_STS" in str(error)

    @pytest.mark.parametrize(("role", "token"), [("reader", "a token"), (None, "")])
    def test_what_it_cannot_be_asked_with_is_an_error_of_settings(
        self, server: FaultServer, sts: Sts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str, token: str
    ) -> None:
        if role:
            monkeypatch.setenv("AWS_ROLE_ARN", role)
        (tmp_path / "token").write_text(token)
        error = self.failure(server)
        assert type(error) is ConfigError
        assert "AWS's settings cannot be used: Parameter validation failed: Invalid length for parameter " in str(error)


class TestMetadataService:
    def test_one_that_knows_no_role_is_asked_once(self, monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
        asked: list[str] = []

        class Refuse(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            def do_GET(self) -> None:
                self.do_PUT()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as metadata:
            threading.Thread(target=metadata.serve_forever).start()
            try:
                monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
                monkeypatch.setenv(
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{metadata.server_address[1]}"
                )
                with store_of(server, None) as store, pytest.raises(CredentialsError):
                    store.open(URL)
            finally:
                metadata.shutdown()
        assert asked.count("/latest/api/token") == 1
