"""Answers that no store gave are not told as the store's word on the object, on rights or on credentials."""

from collections.abc import Callable

import pytest

from runai_model_streamer.errors import ReadError, SourceChangedError, StorageUnreachableError, StreamerError
from runai_model_streamer.io.s3.listing import list_objects
from tests.io.transports import KEYS, URL, store_of
from tests.servers import Exchange, Fault, FaultServer

DATA = bytes(100_000)

pytestmark = pytest.mark.usefixtures("aws_files", "transport")


def stranger(status: int, text: str = "", **headers: str) -> Fault:
    """An answer with no word of S3 in it."""

    def fault(exchange: Exchange) -> None:
        body = text.encode()
        sent: dict[str, str | None] = {"Content-Length": str(len(body)), "x-amz-request-id": None, "ETag": None}
        sent |= {"Content-Type": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
        exchange.head(status, sent)
        exchange.send(body)

    return fault


PAGE = "<html><head><title>404 Not Found</title></head><body>nginx</body></html>"


@pytest.fixture(params=["open", "list"])
def ask(request: pytest.FixtureRequest) -> str:
    """Objects are opened, and listed."""
    return str(request.param)


def failure(server: FaultServer, ask: str, *, unsigned: bool = False) -> StreamerError:
    with store_of(server.endpoint, None if unsigned else KEYS, retries=0, unsigned=unsigned) as store:
        asks: dict[str, Callable[[], object]] = {
            "open": lambda: store.open(URL),
            "list": lambda: list_objects(store, "s3://bucket/x", lambda _: True, recursive=True),
        }
        with pytest.raises(StreamerError) as caught:
            asks[ask]()
    return caught.value


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410])
@pytest.mark.parametrize("text", [PAGE, "default backend - 404", ""], ids=["page", "text", "nothing"])
def test_a_refusal_without_a_document_of_s3_says_nothing_of_the_object(
    server: FaultServer, ask: str, status: int, text: str
) -> None:
    kind = "text/html" if text == PAGE else "text/plain"
    server.choose = lambda _: stranger(status, text, Content_Type=kind, Server="nginx/1.2")
    error = failure(server, ask)
    assert type(error) is StorageUnreachableError
    assert not isinstance(error, FileNotFoundError | PermissionError)
    assert "something other than the store answered (Server: " in str(error)
    assert f"HTTP {status}" in str(error)
    assert f"The endpoint is {server.endpoint}" in str(error)


def test_well_formed_xml_that_is_no_error_of_s3_is_a_strangers_too(server: FaultServer, ask: str) -> None:
    server.choose = lambda _: stranger(404, "<error><code>NoSuchKey</code></error>", Content_Type="application/xml")
    assert type(failure(server, ask)) is StorageUnreachableError


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_that_does_not_reach_the_store_is_named(server: FaultServer, ask: str, status: int) -> None:
    server.choose = lambda _: stranger(status, PAGE, Via="1.1 ingress")
    error = failure(server, ask)
    assert type(error) is ReadError
    assert "Via: 1.1 ingress" in str(error)
    assert "the store behind it is failing or overloaded" in str(error)


def test_what_a_gateway_says_may_pass(server: FaultServer) -> None:
    server.script(stranger(503, PAGE))
    with store_of(server.endpoint, retries=1) as store:
        assert store.open(URL).size == len(DATA)


def test_a_page_that_sends_elsewhere_is_told_with_where(server: FaultServer) -> None:
    server.choose = lambda _: stranger(302, PAGE, Location="https://login.example/?state=some-secret")
    error = str(failure(server, "open"))
    assert "it redirects to https://login.example/?***" in error
    assert "some-secret" not in error


def test_a_condition_that_failed_is_believed_from_anyone(server: FaultServer) -> None:
    with store_of(server.endpoint, retries=0) as store:
        server.choose = lambda _: stranger(412, PAGE)
        with pytest.raises(SourceChangedError):
            store.open(URL)


def test_a_store_may_leave_the_document_out(server: FaultServer) -> None:
    server.choose = lambda _: stranger(404, "", Content_Type="application/xml", **{"x-amz-request-id": "R1"})
    assert isinstance(failure(server, "open"), FileNotFoundError)


def test_an_anonymous_request_that_is_no_s3_to_the_store_is_told_so(server: FaultServer, ask: str) -> None:
    # As Swift answers, which takes it for its own protocol's.
    server.choose = lambda _: stranger(400, "<html>Bad URL</html>")
    error = failure(server, ask, unsigned=True)
    assert "RUNAI_STREAMER_S3_UNSIGNED=1" in str(error)
    assert "TLS" not in str(error)


@pytest.mark.parametrize("message", ["<Message/>", "<Message></Message>", ""])
def test_a_store_that_says_nothing_more_is_not_quoted(server: FaultServer, ask: str, message: str) -> None:
    document = f"<Error><Code>AccessDenied</Code>{message}</Error>"
    server.choose = lambda _: stranger(403, document, Content_Type="application/xml")
    error = failure(server, ask)
    assert isinstance(error, PermissionError)
    assert "The store says" not in str(error)
    assert "None" not in str(error)


def test_what_a_terminal_obeys_is_not_shown(server: FaultServer, ask: str) -> None:
    server.choose = lambda _: stranger(404, PAGE, Server="evil\x1b[2Jserver")
    assert "\x1b" not in str(failure(server, ask))


class TestProxies:
    @pytest.mark.parametrize("status", [403, 404, 503])
    def test_the_proxy_that_may_have_answered_is_named(
        self, server: FaultServer, ask: str, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        with FaultServer() as proxy:
            proxy.choose = lambda _: stranger(status, "<html>Access denied by the filter</html>", Via="1.1 squid")
            monkeypatch.setenv("HTTP_PROXY", f"http://user:PLANTED@127.0.0.1:{proxy.port}")
            error = str(failure(server, ask))
        assert f"the proxy of HTTP_PROXY, http://127.0.0.1:{proxy.port}" in error
        assert "name 127.0.0.1 in NO_PROXY" in error
        assert "PLANTED" not in error

    def test_no_proxy_is_named_where_none_is_on_the_way(
        self, server: FaultServer, ask: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server.choose = lambda _: stranger(403, PAGE)
        assert "_PROXY" not in str(failure(server, ask))
