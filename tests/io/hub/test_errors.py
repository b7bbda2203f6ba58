"""What users are told of repositories that are gated, private or missing, of tokens, and of a Hub that is away."""

import logging
import sys

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.errors import (
    AccessDeniedError,
    CredentialsError,
    MissingDependencyError,
    NotFoundError,
    ReadError,
    StorageUnreachableError,
    StreamerError,
)
from tests.io.hub.servers import TOKEN, Hub
from tests.io.models import SHARDS
from tests.io.s3 import test_secrets as secrets
from tests.servers import refuse

pytestmark = pytest.mark.usefixtures("waits")

URL = f"hf://org/model/{SHARDS[0]}"


def told(url: str = URL) -> StreamerError:
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as caught:
        streamer.stream_file(url)
    return caught.value


def test_a_gated_repository_without_a_token_says_where_to_ask_and_log_in(hub: Hub) -> None:
    hub.gated = True
    error = told()
    assert type(error) is CredentialsError
    assert "org/model is gated, and there is no token (HTTP 401 GatedRepo" in str(error)
    assert f"Open {hub.endpoint}/org/model and ask for access. Log in with `hf auth login`, or set HF_TOKEN" in str(
        error
    )


def test_a_gated_repository_whose_user_has_no_access_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.gated, hub.allowed = True, False
    error = told()
    assert type(error) is AccessDeniedError
    assert "org/model is gated, and the token's user has no access (HTTP 403 GatedRepo" in str(error)
    assert TOKEN not in str(error)


@pytest.mark.parametrize("url", ["hf://org/missing/model.safetensors", URL])
def test_a_private_repository_and_a_missing_one_are_told_alike(hub: Hub, url: str) -> None:
    hub.private = True
    error = told(url)
    assert type(error) is NotFoundError
    assert "there is no repository org/m" in str(error)
    assert "or it is private" in str(error)
    assert "set HF_TOKEN" in str(error)


def test_a_repository_that_the_token_does_not_reach_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "The token's user may have no access to it." in str(told("hf://org/missing/model.safetensors"))


@pytest.mark.parametrize("url", [URL, f"hf://org/model@{'0' * 40}/{SHARDS[0]}"])
def test_a_wrong_token_is_told(hub: Hub, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken00000000")
    error = told(url)
    assert type(error) is CredentialsError
    assert "the Hub does not accept the token" in str(error)
    assert "hf_wrongtoken" not in str(error)


def test_a_missing_revision_is_told(hub: Hub) -> None:
    error = told(f"hf://org/model@v7/{SHARDS[0]}")
    assert type(error) is NotFoundError
    assert "org/model has no revision 'v7'" in str(error)


def test_a_missing_file_is_told(hub: Hub) -> None:
    error = told("hf://org/model/other.safetensors")
    assert type(error) is NotFoundError
    assert "org/model has no file 'other.safetensors' at main" in str(error)
    assert "`runai-streamer ls hf://org/model`" in str(error)


def test_a_missing_folder_is_told(hub: Hub) -> None:
    with pytest.raises(NotFoundError, match="org/model has no folder 'other/' at main"):
        list_safetensors("hf://org/model/other")


def test_a_hub_that_is_away_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "0")
    error = told()
    assert type(error) is StorageUnreachableError
    assert "no connection to 127.0.0.1:1" in str(error)


@pytest.mark.parametrize("part", ["/api/", "/resolve/"])
def test_a_hub_that_throttles_is_told(hub: Hub, part: str) -> None:
    before = hub.hub.choose
    assert before is not None
    hub.hub.choose = lambda request: refuse(429, "") if part in request.target else before(request)
    error = told()
    assert type(error) is ReadError
    assert "is failing or overloaded (HTTP 429" in str(error)


def test_a_cdn_that_refuses_a_new_link_is_told_by_its_host(hub: Hub) -> None:
    hub.cdn.choose = lambda _: refuse(403, "AccessDenied")
    error = told()
    assert "access denied by localhost:" in str(error)
    assert "Signature" not in str(error)


@pytest.mark.parametrize("fault", ["gated", "missing", "cdn"])
def test_no_frame_log_or_error_shows_the_token(
    hub: Hub, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", secrets.PASSWORD)
    before = hub.hub.choose
    assert before is not None
    hub.hub.choose = lambda request: before(
        type(request)(request.method, request.target, {"Authorization": f"Bearer {TOKEN}"})
    )
    hub.gated, hub.allowed = fault == "gated", fault != "gated"
    if fault == "cdn":
        hub.cdn.choose = lambda _: refuse(403, "AccessDenied")
    name = "none.safetensors" if fault == "missing" else SHARDS[0]
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        secrets.tell_on(lambda: secrets.load(f"hf://org/model/{name}"))
    assert secrets.PASSWORD not in caplog.text


def test_without_huggingface_hub_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with SafetensorsStreamer() as streamer, pytest.raises(MissingDependencyError, match=r"reading from hf://.*\[hub\]"):
        streamer.stream_file(URL)
