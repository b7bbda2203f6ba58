"""Who asks: bearer tokens and netrc entries by host, which nothing shows."""

import base64
import logging
from pathlib import Path

import pytest

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ArgumentError, ConfigError, CredentialsError, StreamerError
from runai_model_streamer.io.paths import as_path
from tests.io.s3 import test_secrets as secrets
from tests.io.web.conftest import DATA
from tests.io.web.servers import WebServers, always, authorized, read_whole, redirect, web_store
from tests.servers import Fault, cut_short, garbage, refuse

TOKEN = "planted-bearer-token-0001"
PASSWORD = "planted-password-1"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()

pytestmark = pytest.mark.usefixtures("waits", "home")


def sent(servers: WebServers) -> list[str | None]:
    with web_store() as store:
        assert read_whole(store.open(servers.url)) == DATA
    return sorted({request.headers.get("Authorization") for request in servers.origin.requests}, key=str)


def test_without_settings_requests_are_anonymous(servers: WebServers) -> None:
    assert sent(servers) == [None]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}"])
def test_a_token_goes_to_its_host(servers: WebServers, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.origin.choose = authorized(f"Bearer {TOKEN}")
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"{host.format(port=servers.origin.port)}={TOKEN}")
    assert sent(servers) == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "example.com"])
def test_a_token_of_another_host_stays_here(servers: WebServers, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"{host}={TOKEN}")
    assert sent(servers) == [None]


def test_of_several_tokens_each_has_its_host(servers: WebServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"example.com=other, 127.0.0.1={TOKEN}==")
    assert sent(servers) == [f"Bearer {TOKEN}=="]


@pytest.mark.parametrize("text", [TOKEN, f"https://host={TOKEN}", "host=", f"host={TOKEN} x", f"={TOKEN}"])
def test_a_token_without_its_host_is_an_error_that_does_not_show_it(text: str) -> None:
    with pytest.raises(ConfigError, match="set it to HOST=TOKEN") as caught:
        LoadConfig.from_environment({"RUNAI_STREAMER_HTTP_TOKEN": text})
    assert TOKEN not in str(caught.value)


def test_the_netrc_file_of_the_user_is_read(servers: WebServers, home: Path) -> None:
    (home / ".netrc").write_text(f"machine 127.0.0.1 login ann password {PASSWORD}\n")
    (home / ".netrc").chmod(0o600)
    servers.origin.choose = authorized(BASIC)
    assert sent(servers) == [BASIC]


def test_netrc_names_another_file(servers: WebServers, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "logins").write_text(f"machine 127.0.0.1 login ann password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(home / "logins"))
    assert sent(servers) == [BASIC]


def test_a_token_wins_over_the_netrc_file(servers: WebServers, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "logins").write_text(f"machine 127.0.0.1 login ann password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(home / "logins"))
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"127.0.0.1={TOKEN}")
    assert sent(servers) == [f"Bearer {TOKEN}"]


def test_the_default_of_a_netrc_file_goes_to_no_host(
    servers: WebServers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "logins").write_text(f"default login ann password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(home / "logins"))
    assert sent(servers) == [None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"bad {PASSWORD}\n", r"cannot be read \(line 1\)"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_netrc_file_that_cannot_be_read_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, says: str
) -> None:
    if text is not None:
        (home / "logins").write_text(text)
    monkeypatch.setenv("NETRC", str(home / "logins"))
    with web_store() as store, pytest.raises(ConfigError, match=says) as caught:
        store.open("http://127.0.0.1:1/model.safetensors")
    assert PASSWORD not in str(caught.value)


def test_wrong_credentials_are_told(servers: WebServers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.origin.choose = authorized("Bearer another")
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"127.0.0.1={TOKEN}")
    with web_store() as store, pytest.raises(CredentialsError, match="does not accept the credentials") as caught:
        store.open(servers.url)
    assert TOKEN not in str(caught.value)


def test_a_user_in_a_url_is_refused_and_not_shown() -> None:
    with web_store() as store, pytest.raises(ArgumentError, match="may not have a user or password") as caught:
        store.open(f"https://ann:{PASSWORD}@host/model.safetensors")
    assert PASSWORD not in str(caught.value)
    assert caught.value.where is not None
    assert caught.value.where.path == "https://***@host/model.safetensors"


def test_the_query_of_a_url_is_sent_and_never_shown(servers: WebServers, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{servers.url}?X-Sig={TOKEN}"
    servers.origin.script(refuse(503, ""))
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"), web_store() as store:
        source = store.open(url)
        assert source.path == f"{servers.url}?***"
        servers.origin.choose = always(refuse(403, ""))
        with pytest.raises(StreamerError, match="signed link, it may have expired") as caught:
            source.read_into(300_000, memoryview(bytearray(10)))
    assert servers.origin.requests[0].target.endswith(f"?X-Sig={TOKEN}")
    assert TOKEN not in f"{caught.value}{caught.value!r}{caught.value.where}{caplog.text}"
    assert TOKEN not in repr(as_path(url))


@pytest.mark.parametrize(
    "fault",
    [refuse(403, ""), refuse(404, ""), cut_short(10), redirect("ftp://x"), garbage()],
    ids=["denied", "missing", "cut short", "redirected to no URL", "garbage"],
)
def test_no_frame_shows_a_secret_while_a_read_fails(
    servers: WebServers, home: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    (home / "logins").write_text(f"machine example.com login ann password {secrets.PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(home / "logins"))
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"127.0.0.1={secrets.TOKEN}")
    monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "1")
    servers.origin.choose = always(fault)
    secrets.tell_on(lambda: secrets.load(servers.url))
