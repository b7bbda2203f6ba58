"""Azure Blob Storage: which account a request is for, and what authorizes it."""

import os
import stat
import time
from pathlib import Path

import pytest

from runai_model_streamer import list_safetensors
from runai_model_streamer.config import AzureConfig, LoadConfig
from runai_model_streamer.errors import ConfigError, NotFoundError
from runai_model_streamer.io.azure.account import Account, account_at, account_of
from runai_model_streamer.io.azure.credentials import EntraTokens
from runai_model_streamer.io.azure.location import BlobLocation, is_blob_url
from runai_model_streamer.io.azure.signing import string_to_sign
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.io.web.store import WebStore
from tests.io.azure.servers import ACCOUNT, KEY, SAS, TOKEN, Azure, Identity
from tests.io.azure.test_azure import URL, storage
from tests.io.models import SHARDS, loaded, same
from tests.io.tokens import ProviderServer, TokenRequest
from tests.servers import Certificate

pytestmark = pytest.mark.usefixtures("waits")

HTTPS = "https://planted.blob.core.windows.net"


class TestKey:
    @pytest.mark.parametrize("variable", ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"])
    def test_each_request_is_signed_with_the_account_key(
        self, azure: Azure, folder: Path, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        azure.allow(key=KEY)
        azure.page_size = 2
        monkeypatch.setenv(variable, KEY)
        assert same(loaded(list_safetensors("az://models/llama")), folder)
        sent = {request.headers["Authorization"] for request in azure.server.requests}
        assert len(sent) > len(SHARDS)
        assert all(value.startswith(f"SharedKey {ACCOUNT}:") for value in sent)

    @pytest.mark.parametrize("key", ["a b", "a%20b", "ü/ö", "a?b#c", "a+b&c=d", "x//y"])
    def test_any_key_of_a_blob_can_be_signed(self, azure: Azure, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        azure.allow(key=KEY)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        azure.put(f"odd/{key}/1", b"12345")
        with storage() as opened:
            (entry,) = opened.entries(f"az://models/odd/{key}", lambda _: True, recursive=True)
            assert opened.open(entry.path).size == 5

    def test_the_text_that_is_signed_is_that_of_the_documentation(self) -> None:
        # The example of https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.
        url = "http://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20"
        headers = {"x-ms-version": "2015-02-21", "x-ms-date": "Fri, 26 Jun 2015 23:39:12 GMT", "Accept": "*/*"}
        assert string_to_sign("myaccount", url, headers) == (
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
            "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        )


class TestSas:
    @pytest.mark.parametrize("token", [SAS, f"?{SAS}"])
    def test_a_sas_token_is_in_each_url(
        self, azure: Azure, folder: Path, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        azure.allow(sas=SAS)
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
        assert same(loaded(list_safetensors("az://models/llama")), folder)
        assert all(request.target.endswith(SAS) for request in azure.server.requests)
        assert all("Authorization" not in request.headers for request in azure.server.requests)


class TestConnectionString:
    def test_one_with_a_key_is_all_that_is_needed(
        self, azure: Azure, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        azure.allow(key=KEY)
        for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"):
            monkeypatch.delenv(name)
        text = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azure.server.endpoint}/"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert same(loaded(list_safetensors("az://models/llama")), folder)

    def test_one_with_a_sas_token_is_all_that_is_needed(
        self, azure: Azure, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        azure.allow(sas=SAS)
        for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"):
            monkeypatch.delenv(name)
        text = f"BlobEndpoint={azure.server.endpoint};SharedAccessSignature={SAS}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert same(loaded(list_safetensors("az://models/llama")), folder)

    @pytest.mark.parametrize(
        ("text", "name", "endpoint"),
        [
            (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}", "a", "https://a.blob.core.windows.net"),
            (
                f"AccountName=a;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
                "a",
                "https://a.blob.core.chinacloudapi.cn",
            ),
            ("UseDevelopmentStorage=true", "devstoreaccount1", "http://127.0.0.1:10000/devstoreaccount1"),
            (f"BlobEndpoint=http://localhost:1/dev/;SharedAccessSignature=?{SAS};", "dev", "http://localhost:1/dev"),
        ],
    )
    def test_each_form_names_an_account(self, text: str, name: str, endpoint: str) -> None:
        account = account_of(AzureConfig(connection_string=Secret(text)))
        assert account is not None
        assert (account.name, account.endpoint) == (name, endpoint)
        assert bool(account.key) != bool(account.sas)

    def test_it_wins_over_all_other_settings(self) -> None:
        text = Secret(f"AccountName=a;AccountKey={KEY}")
        account = account_of(AzureConfig(account="b", key=Secret("Yg=="), sas=Secret(SAS), connection_string=text))
        assert account == Account("a", "https://a.blob.core.windows.net", Secret(KEY))

    @pytest.mark.parametrize("text", ["nothing", f"AccountKey={KEY}", "AccountName=a;AccountKey=planted!"])
    def test_one_that_cannot_be_used_is_told_without_its_text(self, text: str) -> None:
        with pytest.raises(ConfigError, match="AZURE_STORAGE_CONNECTION_STRING cannot be used") as caught:
            account_of(AzureConfig(connection_string=Secret(text)))
        assert text not in str(caught.value)
        assert "planted" not in str(caught.value)


class TestAccount:
    def test_its_endpoint_has_the_suffix_of_the_settings(self) -> None:
        account = account_of(AzureConfig(account="a", endpoint_suffix="blob.core.usgovcloudapi.net"))
        assert account is not None
        assert account.endpoint == "https://a.blob.core.usgovcloudapi.net"

    @pytest.mark.parametrize("variable", ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"])
    def test_a_variable_names_it(self, variable: str) -> None:
        account = account_of(LoadConfig.from_environment({variable: "a"}).azure)
        assert account == Account("a", "https://a.blob.core.windows.net")

    def test_the_url_names_it(self) -> None:
        location = BlobLocation.of(f"{HTTPS}/models/a%20b")
        assert location == BlobLocation(HTTPS, "models", "a b")
        assert location.url_of("a b") == f"{HTTPS}/models/a%20b"
        assert account_at(location, None, "") == Account("planted", HTTPS)

    def test_a_key_goes_to_its_own_account_alone(self) -> None:
        named = Account("a", "https://a.blob.core.windows.net", Secret(KEY))
        other = BlobLocation.of(f"{HTTPS}/models/key")
        own = BlobLocation.of("https://A.blob.core.windows.net/models/key")
        assert account_at(other, named, "") == Account("planted", HTTPS)
        assert account_at(own, named, "") is named

    def test_a_key_that_is_none_is_told_without_it(self) -> None:
        with pytest.raises(
            ConfigError, match="AZURE_STORAGE_ACCOUNT_KEY cannot be used: the key is not in base64"
        ) as caught:
            account_of(AzureConfig(account="a", key=Secret("planted!")))
        assert "planted" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "ours"),
        [
            (f"{HTTPS}/models/key", True),
            ("https://Planted.BLOB.core.windows.net:443/models", True),
            ("https://planted.z12.blob.storage.azure.net/models/key", True),
            ("https://planted.blob.core.usgovcloudapi.net/models/key", True),
            (f"{HTTPS}/models/key?sig=1", False),
            ("http://planted.blob.core.windows.net/models/key", False),
            ("https://planted.blob.core.windows.net.example.com/models/key", False),
            ("https://user@planted.blob.core.windows.net/models/key", False),
            ("https://planted.blob.core.windows.net:8443/models/key", False),
            ("https://example.com/planted.blob.core.windows.net/key", False),
        ],
    )
    def test_a_url_of_the_service_that_is_not_signed_is_read_natively(self, url: str, ours: bool) -> None:
        assert is_blob_url(url) is ours
        with storage() as opened:
            assert isinstance(opened._store_of(url), WebStore) is not ours  # noqa: SLF001 - which one it is


class TestEntra:
    def test_a_managed_identity_gives_the_token(self, azure: Azure, identity: Identity, folder: Path) -> None:
        azure.allow(token=TOKEN)
        assert same(loaded(list_safetensors("az://models/llama")), folder)

    def test_a_token_is_asked_for_once(self, azure: Azure, identity: Identity) -> None:
        tokens = EntraTokens()
        identity.tokens = ["first", "second"]
        assert (tokens.token(), tokens.token()) == ("first", "first")
        tokens.close()

    def test_a_token_that_is_about_to_expire_is_replaced(self, azure: Azure, identity: Identity) -> None:
        tokens = EntraTokens()
        identity.tokens, identity.lifetime = ["first", "second"], 200
        assert (tokens.token(), tokens.token()) == ("first", "second")
        tokens.close()

    def test_a_token_that_runs_out_in_the_middle_of_a_load_is_renewed(self, azure: Azure, identity: Identity) -> None:
        azure.allow(token="first")
        identity.tokens = ["first", "second"]
        with storage() as opened:
            source = opened.open(URL)
            azure.token = "second"
            source.read_into(300_000, memoryview(bytearray(1000)))

    def test_a_provider_that_fails_once_is_asked_again(self, azure: Azure, identity: Identity) -> None:
        azure.allow(token=TOKEN)
        identity.tokens = ["", TOKEN]
        assert len(loaded([URL])) == 1

    def test_without_credentials_a_public_container_is_read(self, azure: Azure, identity: Identity) -> None:
        identity.tokens = [""]
        assert len(loaded([URL])) == 1

    def test_what_a_public_container_lacks_is_asked_for_once(self, azure: Azure, identity: Identity) -> None:
        identity.tokens = [""]
        with storage() as opened, pytest.raises(NotFoundError):
            opened.open("az://models/none")
        assert len(azure.server.requests) == 1

    def test_a_key_wins_over_a_login(self, azure: Azure, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        azure.allow(key=KEY)
        identity.tokens = ["never asked for"]
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1")
        assert len(loaded([URL])) == 1

    def test_its_token_never_goes_over_the_network_in_the_clear(
        self, azure: Azure, identity: Identity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://storage.example.com")
        with storage() as opened, pytest.raises(ConfigError, match="is not sent over http://"):
            opened.open(URL)

    def test_the_login_of_the_command_line_is_found(
        self, azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("azure.identity", reason="the extra [azure] is not installed")
        expires = int(time.time()) + 3600
        program = tmp_path / "bin" / "az"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho \'{{"accessToken": "{TOKEN}", "expiresOn": "2099-01-01 00:00:00.000000", '
            f'"expires_on": {expires}}}\'\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("AZURE_STORAGE_ANON")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
        azure.allow(token=TOKEN)
        assert len(loaded([URL])) == 1

    def test_the_metadata_service_of_a_virtual_machine_is_found(
        self, azure: Azure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("azure.identity", reason="the extra [azure] is not installed")

        def answer(request: TokenRequest) -> tuple[int, object]:
            assert request.path == "/metadata/identity/oauth2/token"
            about = {"access_token": TOKEN, "expires_in": "3600", "resource": "any", "token_type": "Bearer"}
            return 200, about | {"expires_on": str(int(time.time()) + 3600)}

        with ProviderServer(answer) as server:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.url)
            monkeypatch.delenv("AZURE_STORAGE_ANON")
            monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
            azure.allow(token=TOKEN)
            assert len(loaded([URL])) == 1

    def test_the_identity_of_a_workload_of_kubernetes_is_found(
        self, azure: Azure, tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("azure.identity", reason="the extra [azure] is not installed")
        asked: list[TokenRequest] = []

        def answer(request: TokenRequest) -> tuple[int, object]:
            if "openid-configuration" in request.path:
                place = f"https://{request.headers['host']}/tenant"
                return 200, {
                    "token_endpoint": f"{place}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{place}/oauth2/v2.0/authorize",
                    "issuer": f"{place}/v2.0",
                }
            asked.append(request)
            return 200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}

        (tmp_path / "subject").write_text("planted.subject.token")
        with ProviderServer(answer, certificate) as server:
            monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.certificate))
            for name, value in {
                "AZURE_TENANT_ID": "tenant",
                "AZURE_CLIENT_ID": "client",
                "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "subject"),
                "AZURE_TOKEN_CREDENTIALS": "WorkloadIdentityCredential",
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("AZURE_STORAGE_ANON")
            azure.allow(token=TOKEN)
            assert len(loaded([URL])) == 1
        assert [request.fields["client_assertion"] for request in asked] == ["planted.subject.token"]

    def test_a_variable_that_azure_identity_does_not_know_is_told(
        self, azure: Azure, identity: Identity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
        opened = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            with pytest.raises(ConfigError, match=r"azure-identity cannot be used: .*AZURE_TOKEN_CREDENTIALS"):
                opened.open(URL)
        finally:
            opened.close()
