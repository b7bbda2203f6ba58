"""Redirects: followed, remembered, renewed when their links run out, and never handed credentials."""

import pytest

from runai_model_streamer.errors import AccessDeniedError, NotFoundError, ReadError, StreamerError
from tests.io.web.conftest import DATA
from tests.io.web.servers import WebServers, always, authorized, read_whole, redirect, web_store
from tests.servers import Certificate, Exchange, Fault, FaultServer, Request, cut_short, refuse

TOKEN = "planted-bearer-token-0001"

pytestmark = pytest.mark.usefixtures("waits")


@pytest.fixture
def _token(servers: WebServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", f"127.0.0.1:{servers.origin.port}={TOKEN}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_remembered_for_the_ranges(servers: WebServers, status: int) -> None:
    servers.origin.choose = always(redirect(servers.elsewhere, status))
    with web_store() as store:
        assert read_whole(store.open(servers.url)) == DATA
    assert len(servers.origin.requests) == 1
    assert len(servers.other.requests) == 7


@pytest.mark.usefixtures("_token")
def test_another_host_never_gets_the_credentials(servers: WebServers) -> None:
    own = authorized(f"Bearer {TOKEN}")
    servers.origin.choose = lambda request: own(request) or redirect(servers.elsewhere)
    with web_store() as store:
        assert read_whole(store.open(servers.url)) == DATA
    assert [request.headers.get("Authorization") for request in servers.origin.requests] == [f"Bearer {TOKEN}"]
    assert len(servers.other.requests) == 7
    assert not any(TOKEN in str(request) for request in servers.other.requests)


@pytest.mark.usefixtures("_token")
def test_another_port_of_the_host_is_another_host(servers: WebServers) -> None:
    servers.origin.choose = always(redirect(f"{servers.other.endpoint}/models/model.safetensors"))
    with web_store() as store:
        store.open(servers.url)
    assert servers.other.requests
    assert not any("Authorization" in request.headers for request in servers.other.requests)


@pytest.mark.usefixtures("_token")
def test_a_user_in_a_redirect_is_not_sent(servers: WebServers) -> None:
    servers.origin.choose = always(redirect(servers.elsewhere.replace("//", "//user:password@")))
    with web_store() as store:
        store.open(servers.url)
    assert not any("Authorization" in request.headers for request in servers.other.requests)


@pytest.mark.usefixtures("_token")
def test_a_relative_redirect_stays_on_the_host_with_its_credentials(servers: WebServers) -> None:
    servers.origin.put("models", "moved.safetensors", DATA)
    own = authorized(f"Bearer {TOKEN}")

    def choose(request: Request) -> Fault | None:
        return own(request) or (
            redirect("moved.safetensors") if request.target.endswith("/model.safetensors") else None
        )

    servers.origin.choose = choose
    with web_store() as store:
        assert read_whole(store.open(servers.url)) == DATA


def test_a_link_that_runs_out_is_renewed_where_the_load_stands(servers: WebServers) -> None:
    links = iter(range(100))
    valid: list[int] = []

    def resolve(exchange: Exchange) -> None:
        valid[:] = [next(links)]
        redirect(f"{servers.elsewhere}?link={valid[0]}")(exchange)

    def check(request: Request) -> Fault | None:
        return None if request.target.endswith(f"link={valid[0]}") else refuse(403, "")

    servers.origin.choose = always(resolve)
    servers.other.choose = check
    with web_store(retries=0) as store:
        source = store.open(servers.url)
        memory = bytearray(len(DATA))
        for start in range(0, len(DATA), 100_000):
            valid[:] = [-1] if start == 400_000 else valid
            source.read_into(start, memoryview(memory)[start : start + 100_000])
    assert memory == DATA
    assert len(servers.origin.requests) == 2


def test_a_link_that_breaks_off_goes_on_from_the_byte_already_landed(servers: WebServers) -> None:
    servers.origin.choose = always(redirect(servers.elsewhere))
    with web_store() as store:
        source = store.open(servers.url)
        servers.other.script(cut_short(10_000), refuse(403, ""))
        memory = bytearray(100_000)
        source.read_into(300_000, memoryview(memory))
    assert memory == DATA[300_000:400_000]
    assert [request.span for request in servers.other.requests[1:]] == [
        (300_000, 399_999),
        (310_000, 399_999),
        (310_000, 399_999),
    ]


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDeniedError), (404, NotFoundError)])
def test_a_link_that_is_refused_when_it_is_new_is_an_error_that_names_its_host(
    servers: WebServers, status: int, kind: type[StreamerError]
) -> None:
    servers.origin.choose = always(redirect(servers.elsewhere))
    servers.other.choose = always(refuse(status, ""))
    with web_store() as store, pytest.raises(kind, match=r"localhost:\d+, to which the server redirects,") as caught:
        store.open(servers.url)
    assert type(caught.value) is kind
    assert len(servers.other.requests) == 1


def test_redirects_without_end_are_an_error(servers: WebServers) -> None:
    servers.origin.choose = always(redirect(servers.url))
    with web_store() as store, pytest.raises(ReadError, match="more than 10 redirects"):
        store.open(servers.url)


@pytest.mark.parametrize("target", ["", "ftp://host/file", "http://host:port/x", "file:///etc/passwd"])
def test_a_redirect_to_what_is_no_web_url_is_an_error(servers: WebServers, target: str) -> None:
    servers.origin.choose = always(redirect(target))
    with web_store() as store, pytest.raises(ReadError, match="redirects to something that is not a web URL"):
        store.open(servers.url)


def test_a_redirect_away_from_tls_is_an_error(certificate: Certificate, servers: WebServers) -> None:
    with FaultServer(certificate) as server, web_store(ca_bundle=str(certificate.certificate)) as store:
        server.choose = always(redirect(servers.elsewhere))
        with pytest.raises(ReadError, match="redirects from https:// to http://localhost"):
            store.open(f"{server.endpoint}/models/model.safetensors")
    assert servers.other.requests == []
