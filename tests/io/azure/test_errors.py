"""Azure Blob Storage: what users are told, and that no secret is."""

import logging
from collections.abc import Callable

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.errors import (
    AccessDeniedError,
    ConfigError,
    CredentialsError,
    MissingDependencyError,
    NotFoundError,
    ReadError,
    StorageUnreachableError,
    StreamerError,
)
from tests.io.azure.servers import KEY, SAS, TOKEN, Azure, Identity, azure_error
from tests.io.azure.test_azure import URL
from tests.io.s3 import test_secrets as secrets

pytestmark = pytest.mark.usefixtures("waits")


def told(url: str = URL) -> StreamerError:
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as caught:
        streamer.stream_file(url)
    return caught.value


def test_a_wrong_account_key_is_told(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.allow(key="d3Jvbmc=")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    error = told()
    assert type(error) is CredentialsError
    assert "account planted does not accept the account key (HTTP 403 AuthenticationFailed, request id" in str(error)
    assert "this machine's clock" in str(error)
    assert KEY not in str(error)


def test_a_wrong_sas_token_is_told(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.allow(sas="sig=another")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    error = told()
    assert type(error) is CredentialsError
    assert "account planted does not accept the SAS token (HTTP 403 AuthenticationFailed" in str(error)
    assert "--permissions rl" in str(error)
    assert "PlantedSessionToken" not in str(error)


def test_a_token_of_another_tenant_is_told(azure: Azure, identity: Identity) -> None:
    azure.allow(token="another")
    error = told()
    assert type(error) is CredentialsError
    assert "account planted does not accept the token of azure-identity (HTTP 401 InvalidAuthentic" in str(error)
    assert "AZURE_TENANT_ID" in str(error)
    assert TOKEN not in str(error)


def test_a_container_that_is_not_public_is_told(azure: Azure) -> None:
    azure.public = False
    error = told()
    assert type(error) is CredentialsError
    private = "container models of account planted does not serve anonymous requests, or does not exist"
    assert f"{private} (HTTP 404 ResourceNotFound" in str(error)
    assert "Unset AZURE_STORAGE_ANON" in str(error)


def test_no_credentials_at_all_are_told(azure: Azure, identity: Identity) -> None:
    azure.public = False
    identity.tokens = [""]
    error = told()
    assert type(error) is CredentialsError
    assert "azure-identity finds no credentials" in str(error)
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(error)
    assert "`az login`" in str(error)


def test_without_azure_identity_the_error_says_what_to_install(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.public = False
    monkeypatch.delenv("AZURE_STORAGE_ANON")
    monkeypatch.setitem(__import__("sys").modules, "azure.identity", None)
    error = told()
    assert type(error) is MissingDependencyError
    assert "azure-identity is not installed" in str(error)
    assert "[azure]" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind", "summary", "remedy"),
    [
        (403, "AuthorizationPermissionMismatch", AccessDeniedError, "access denied to container models", "Data Reader"),
        (403, "AuthorizationFailure", AccessDeniedError, "access denied to container models", "networking rules"),
        (403, "AccountIsDisabled", AccessDeniedError, "account planted is disabled", "subscription"),
        (403, "KeyBasedAuthenticationNotPermitted", CredentialsError, "permits neither keys nor", "az login"),
        (400, "InvalidResourceName", NotFoundError, "the service takes no name such as 'models'", "lower-case"),
        (400, "AccountRequiresHttps", ConfigError, "account planted takes https:// only", "https://"),
        (409, "BlobArchived", ReadError, "is in the archive tier", "set-tier"),
        (409, "BlobBeingRehydrated", ReadError, "is in the archive tier", "hours"),
        (404, "ContainerBeingDeleted", NotFoundError, "has no container models", "container list"),
        (503, "ServerBusy", ReadError, "is failing or overloaded (HTTP 503 ServerBusy", "RUNAI_STREAMER_CONNECTIONS"),
        (500, "OperationTimedOut", ReadError, "is failing or overloaded (HTTP 500 OperationTimedOut", "operator"),
    ],
)
def test_each_refusal_of_the_service_says_what_to_do(
    azure: Azure, identity: Identity, status: int, code: str, kind: type[StreamerError], summary: str, remedy: str
) -> None:
    azure.allow(token=TOKEN)
    azure.refusal = status, code
    error = told()
    assert type(error) is kind
    assert summary in str(error)
    assert code in str(error)
    assert remedy in str(error)


def test_a_sas_token_that_does_not_allow_it_is_told(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.allow(sas=SAS)
    azure.refusal = 403, "AuthorizationPermissionMismatch"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    error = told()
    assert type(error) is AccessDeniedError
    assert "the SAS token does not allow this" in str(error)


def test_a_missing_blob_is_told(azure: Azure) -> None:
    error = told("az://models/none")
    assert type(error) is NotFoundError
    assert "there is no blob 'none' in container models (HTTP 404 BlobNotFound" in str(error)
    assert "az storage blob list --account-name planted --container-name models" in str(error)


@pytest.mark.parametrize("call", [told, list_safetensors])
def test_a_missing_container_is_told(azure: Azure, call: Callable[[str], object]) -> None:
    try:
        error = call("az://missing/none")
    except StreamerError as raised:
        error = raised
    assert isinstance(error, NotFoundError)
    assert "account planted has no container missing" in str(error)


def test_a_missing_prefix_of_a_container_is_told(azure: Azure) -> None:
    with pytest.raises(NotFoundError, match="container models has no key that begins with 'none/'"):
        list_safetensors("az://models/none")


def test_a_signed_link_that_has_run_out_is_told_with_the_code_of_azure(azure: Azure) -> None:
    azure.server.choose = lambda _: azure_error(403, "AuthenticationFailed")
    error = told(f"{azure.server.endpoint}/models/llama/config.json?sig=planted")
    assert type(error) is AccessDeniedError
    assert "(HTTP 403 AuthenticationFailed, request id REQUEST" in str(error)
    assert "it may have expired: make a new one" in str(error)
    assert "planted" not in str(error)


def test_an_account_that_throttles_is_told(azure: Azure) -> None:
    azure.server.choose = lambda _: azure_error(503, "ServerBusy")
    error = told()
    assert type(error) is ReadError
    assert "is failing or overloaded (HTTP 503 ServerBusy" in str(error)
    assert "3 attempts" in str(error)


def test_an_account_that_is_away_is_told(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "0")
    error = told()
    assert type(error) is StorageUnreachableError
    assert "no connection to 127.0.0.1:1" in str(error)


@pytest.mark.parametrize("way", ["key", "sas", "token"])
@pytest.mark.parametrize("fault", ["denied", "missing", "refused", "broken"])
def test_no_frame_log_or_error_shows_a_secret_of_azure(
    azure: Azure,
    identity: Identity,
    way: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted = secrets.PASSWORD
    if way == "key":
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "cGxhbnRlZC1wYXNzd29yZC0x")
        monkeypatch.setattr(secrets, "PLANTED", ("cGxhbnRlZC1wYXNzd29yZC0x", planted))
        azure.allow(key="cGxhbnRlZC1wYXNzd29yZC0x" if fault != "refused" else "YQ==")
    elif way == "sas":
        sas = f"sv=2022-11-02&sig={planted}"
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
        azure.allow(sas=sas if fault != "refused" else "sig=another")
    else:
        identity.tokens = [planted]
        azure.allow(token=planted if fault != "refused" else "another")
    azure.refusal = (403, "AuthorizationFailure") if fault == "denied" else None
    if fault == "broken":
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        secrets.tell_on(lambda: secrets.load("az://models/none" if fault == "missing" else URL))
    assert planted not in caplog.text


@pytest.mark.parametrize("text", ["AccountKey=planted-password-1", "AccountName=a;AccountKey=planted-password-1!"])
def test_no_frame_shows_a_connection_string_that_cannot_be_used(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    secrets.tell_on(lambda: secrets.load(URL))
