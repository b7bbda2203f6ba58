"""Whom a load trusts, for objects, for listings and for credentials alike."""

from pathlib import Path

import pytest
from botocore.httpsession import get_cert_path

from runai_model_streamer.errors import StorageUnreachableError
from runai_model_streamer.io.s3_listing import has_keys
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
