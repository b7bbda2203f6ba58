"""Which proxy a request goes through, as whom, and what is never said of it."""

import base64
import traceback

import pytest

from runai_model_streamer.errors import ConfigError, StorageUnreachableError
from runai_model_streamer.io.http.proxies import Proxies, Proxy, proxy_for
from runai_model_streamer.io.s3.listing import has_keys
from tests.io.transports import URL, store_of
from tests.servers import FaultServer

DATA = bytes(1_000_000)
STORE = "http://store.example.com"

UNREADABLE = (
    "http://user:pa/PLANTED@127.0.0.1:9",
    "http://user:p#PLANTED@127.0.0.1:9",
    "http://user:p?PLANTED@127.0.0.1:9",
    "user:pa/PLANTED@127.0.0.1:9",
    "http://user:1/PLANTED@127.0.0.1:9",
    "http://user:1#PLANTED@127.0.0.1:9",
    "http://user:PLANTED[@127.0.0.1:9",
    "http://user:PLANTED@127.0.0.1:99999",
)


class TestChoice:
    @pytest.mark.parametrize(
        ("value", "proxy"),
        [
            ("http://proxy:3128", Proxy("http://proxy:3128")),
            ("proxy:3128", Proxy("http://proxy:3128")),
            ("https://[::1]:3128/", Proxy("https://[::1]:3128")),
            ("socks5h://user:password@proxy", Proxy("socks5h://proxy", "user", "password")),
            ("user:p@ss word@proxy:3128", Proxy("http://proxy:3128", "user", "p@ss word")),
            ("http://us%40er:p%2F%23%3Fss%@proxy", Proxy("http://proxy", "us@er", "p/#?ss%")),
            ("http://user@proxy", Proxy("http://proxy", "user")),
            ("", Proxy()),
        ],
    )
    def test_user_and_password_are_taken_apart_from_the_url(
        self, monkeypatch: pytest.MonkeyPatch, value: str, proxy: Proxy
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", value)
        assert proxy_for(STORE) == proxy
        assert "p@ss" not in repr(proxy)

    def test_each_scheme_has_its_own_and_some_hosts_have_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
        monkeypatch.setenv("NO_PROXY", ".corp")
        assert proxy_for("https://store.example.com").url == "http://proxy:3128"
        assert proxy_for("http://store.example.com").url == ""
        assert proxy_for("https://store.corp").url == ""


@pytest.mark.usefixtures("aws_files", "transport")
class TestPasswords:
    def test_special_characters_reach_the_proxy_from_reads_and_listings_alike(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p@ss w%2Frd@127.0.0.1:{server.port}")
        with store_of(STORE, retries=0) as store:
            assert store.open(URL).size == len(DATA)
            assert has_keys(store, "s3://bucket/")
        expected = "Basic " + base64.b64encode(b"user:p@ss w/rd").decode()
        assert [request.headers["Proxy-Authorization"] for request in server.requests] == [expected] * 2

    @pytest.mark.parametrize("value", UNREADABLE)
    def test_a_url_that_cannot_be_read_names_the_variable_and_shows_nothing_of_it(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", value)
        with store_of(STORE) as store:
            for ask in (store.open, lambda path: has_keys(store, path)):
                with pytest.raises(
                    ConfigError, match=r"^HTTP_PROXY is not the URL of a proxy: .*percent-encoded"
                ) as caught:
                    ask(URL)
                assert "PLANTED" not in "".join(traceback.format_exception(caught.value))
                assert caught.value.__context__ is None

    def test_a_scheme_that_is_none_of_a_proxys_shows_nothing_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "strange://user:PLANTED@127.0.0.1:9")
        with store_of(STORE, retries=0) as store:
            with pytest.raises(StorageUnreachableError, match="no connection through the proxy: ") as caught:
                store.open(URL)
            assert "PLANTED" not in "".join(traceback.format_exception(caught.value))

    def test_a_url_that_is_not_needed_is_not_looked_at(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", UNREADABLE[0])
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with store_of(server) as store:
            assert store.open(URL).size == len(DATA)


def test_the_proxy_of_a_load_is_looked_up_once_for_each_host() -> None:
    looked: list[str] = []

    def look(url: str) -> Proxy:
        looked.append(url)
        return Proxy(url)

    proxies = Proxies(look)
    urls = ["https://a/b/c", "https://a/d", "http://a/b", "https://a:1/b", "https://a"]
    assert [proxies(url).url for url in urls] == [
        "https://a/b/c",
        "https://a/b/c",
        "http://a/b",
        "https://a:1/b",
        "https://a/b/c",
    ]
    assert looked == ["https://a/b/c", "http://a/b", "https://a:1/b"]
