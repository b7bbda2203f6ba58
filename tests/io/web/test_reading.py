"""Files of web servers: ranges of one version, what is asked again, and what is an error."""

import random
import re

import pytest

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentError,
    CredentialsError,
    IsDirectoryError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageTimeoutError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from runai_model_streamer.io.storage import Storage
from tests.io.web.conftest import DATA
from tests.io.web.servers import WebServers, always, read_whole, web_store, with_headers
from tests.servers import (
    Certificate,
    Exchange,
    Fault,
    FaultServer,
    change,
    cut_short,
    garbage,
    no_length,
    other_range,
    refuse,
    reset_after,
    reset_at_once,
    small_whole,
    stall_before_headers,
    whole_object,
    without_etag,
)

pytestmark = pytest.mark.usefixtures("waits")


def read_after(servers: WebServers, *faults: Fault, retries: int = 3, timeout: float = 30.0) -> bytes:
    """Open the file, and read all of it while the faults happen."""
    with web_store(retries=retries, timeout=timeout) as store:
        source = store.open(servers.url)
        servers.origin.script(*faults)
        return read_whole(source)


class TestRead:
    def test_a_file_is_opened_with_its_first_bytes_and_read_in_ranges_of_that_version(
        self, servers: WebServers
    ) -> None:
        assert read_after(servers) == DATA
        spans = [request.span for request in servers.origin.requests]
        assert spans[:2] == [(0, PREFIX_BYTES - 1), (PREFIX_BYTES, 299_999)]
        etag = servers.origin.etag("models", "model.safetensors")
        assert [request.headers.get("If-Match") for request in servers.origin.requests[1:]] == [etag] * 6

    def test_bytes_are_asked_for_as_they_are_stored(self, servers: WebServers) -> None:
        read_after(servers)
        assert {request.headers.get("Accept-Encoding") for request in servers.origin.requests} == {"identity"}

    def test_a_file_whose_size_and_etag_are_known_takes_no_request_to_open(self, servers: WebServers) -> None:
        with web_store() as store:
            store.open(servers.url, (len(DATA), '"known"'))
        assert servers.origin.requests == []

    @pytest.mark.parametrize(
        ("path", "sent"),
        [
            ("/models/a b.safetensors", "/models/a%20b.safetensors"),
            ("/models/a%20b.safetensors", "/models/a%20b.safetensors"),
            ("/models/ü.safetensors", "/models/%C3%BC.safetensors"),
            ("/models/a+b~(1).safetensors", "/models/a+b~(1).safetensors"),
            ("/models/x.safetensors?sig=a%2Bb&se=1", "/models/x.safetensors?sig=a%2Bb&se=1"),
            ("/models/x.safetensors#part", "/models/x.safetensors"),
        ],
    )
    def test_a_url_is_sent_as_it_is_written_but_for_what_no_request_holds(
        self, servers: WebServers, path: str, sent: str
    ) -> None:
        servers.origin.choose = always(Exchange.right)
        with web_store() as store, pytest.raises(StreamerError):
            store.open(servers.origin.endpoint + path)
        assert servers.origin.requests[0].target == sent

    def test_an_empty_file_is_opened(self, servers: WebServers) -> None:
        servers.origin.put("models", "empty", b"")
        with web_store() as store:
            assert store.open(f"{servers.origin.endpoint}/models/empty").size == 0

    def test_over_tls_the_authorities_of_the_settings_are_trusted(self, certificate: Certificate) -> None:
        with FaultServer(certificate) as server:
            server.put("models", "model.safetensors", DATA)
            url = f"{server.endpoint}/models/model.safetensors"
            with web_store(ca_bundle=str(certificate.certificate)) as store:
                assert read_whole(store.open(url)) == DATA
            with (
                web_store(retries=0) as store,
                pytest.raises(StorageUnreachableError, match=r"is not trusted.*Set SSL_CERT_FILE"),
            ):
                store.open(url)


class TestRetries:
    @pytest.mark.parametrize("seed", range(8))
    def test_any_mix_of_passing_faults_ends_with_every_byte_right(self, servers: WebServers, seed: int) -> None:
        chance = random.Random(seed)
        kinds = [
            refuse(503, ""),
            refuse(429, ""),
            refuse(500, ""),
            reset_after(chance.randrange(100_000)),
            cut_short(chance.randrange(100_000)),
            reset_at_once(),
            garbage(),
            no_length(),
        ]
        faults = [chance.choice(kinds) for _ in range(5)]
        assert read_after(servers, *faults, retries=5) == DATA

    def test_a_retry_goes_on_from_the_byte_already_landed(self, servers: WebServers) -> None:
        with web_store() as store:
            source = store.open(servers.url)
            servers.origin.script(cut_short(40_000))
            source.read_into(300_000, memoryview(bytearray(100_000)))
            assert store.retries == 1
        assert [request.span for request in servers.origin.requests[1:]] == [(300_000, 399_999), (340_000, 399_999)]


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "kind", "says"),
        [
            (refuse(401, ""), CredentialsError, "asks for credentials (HTTP 401"),
            (refuse(401, ""), CredentialsError, "RUNAI_STREAMER_HTTP_TOKEN (HOST=TOKEN)"),
            (refuse(403, ""), AccessDeniedError, "access denied by 127.0.0.1:"),
            (refuse(404, ""), NotFoundError, "has no such file (HTTP 404"),
            (refuse(410, ""), NotFoundError, "has no such file (HTTP 410"),
            (refuse(400, ""), ReadError, "refuses the request (HTTP 400"),
            (refuse(503, ""), ReadError, "is failing or overloaded (HTTP 503"),
            (whole_object(), ReadError, "the server ignored Range and sent the whole object"),
            (other_range(5), ReadError, "the store sent bytes 5-"),
            (garbage(), StorageUnreachableError, "does not speak HTTP"),
        ],
    )
    def test_a_refusal_says_what_it_is_and_what_to_do(
        self, servers: WebServers, fault: Fault, kind: type[StreamerError], says: str
    ) -> None:
        servers.origin.choose = always(fault)
        with web_store(retries=1) as store, pytest.raises(StreamerError, match=re.escape(says)) as caught:
            store.open(servers.url)
        assert type(caught.value) is kind
        assert caught.value.where is not None
        assert caught.value.where.path == servers.url
        assert caught.value.remedy

    def test_a_server_without_ranges_is_an_error_before_it_has_sent_the_file(self, servers: WebServers) -> None:
        long = bytes(64 << 20)
        servers.origin.put("models", "model.safetensors", long)
        servers.origin.choose = always(whole_object())
        with web_store() as store, pytest.raises(ReadError, match="Use an endpoint that serves HTTP range requests"):
            store.open(servers.url)
        assert len(servers.origin.requests) == 1
        assert servers.origin.bytes_served < len(long)

    def test_a_small_file_of_a_server_without_ranges_is_read(self, servers: WebServers) -> None:
        servers.origin.put("models", "config.json", b"{}")
        servers.origin.choose = always(small_whole())
        with web_store() as store:
            assert read_whole(store.open(f"{servers.origin.endpoint}/models/config.json")) == b"{}"

    def test_a_login_page_is_no_file(self, servers: WebServers) -> None:
        def page(exchange: Exchange) -> None:
            exchange.head(200, {"Content-Type": "text/html", "Content-Length": "5"})
            exchange.send(b"<html")

        servers.origin.choose = always(page)
        with web_store() as store, pytest.raises(ReadError, match="the server sent a web page"):
            store.open(servers.url)

    def test_no_server_is_an_error_that_names_the_host(self, servers: WebServers) -> None:
        says = r"no connection to 127\.0\.0\.1:1: Connection refused"
        with web_store(retries=0) as store, pytest.raises(StorageUnreachableError, match=says):
            store.open("http://127.0.0.1:1/model.safetensors")

    def test_a_server_that_says_nothing_is_a_timeout(self, servers: WebServers) -> None:
        servers.origin.choose = always(stall_before_headers())
        says = r"or no more of it, for 0\.3 s"
        with web_store(retries=0, timeout=0.3) as store, pytest.raises(StorageTimeoutError, match=says):
            store.open(servers.url)

    def test_plain_http_to_a_tls_port_is_told(self, certificate: Certificate) -> None:
        says = "write https:// instead of http://"
        with (
            FaultServer(certificate) as server,
            web_store(retries=0) as store,
            pytest.raises(StreamerError, match=says),
        ):
            store.open(f"http://127.0.0.1:{server.port}/models/model.safetensors")

    @pytest.mark.parametrize("url", ["https:///model.safetensors", "http://host:port/model", "https://[::1/model"])
    def test_what_is_no_url_of_a_file_is_told(self, url: str) -> None:
        with web_store() as store, pytest.raises(ArgumentError, match="not a URL of a file"):
            store.open(url)

    @pytest.mark.parametrize("url", ["https://host", "https://host/", "https://host/folder/"])
    def test_a_folder_is_no_file(self, url: str) -> None:
        with web_store() as store, pytest.raises(IsDirectoryError, match="list_safetensors lists them"):
            store.open(url)


class TestChanged:
    def test_a_file_that_is_replaced_is_an_error_and_never_a_mixture(self, servers: WebServers) -> None:
        with pytest.raises(SourceChangedError, match="was written to while it was being read"):
            read_after(servers, change(DATA[::-1]))

    def test_a_server_that_knows_no_if_match_is_seen_through_by_its_etag(self, servers: WebServers) -> None:
        with pytest.raises(SourceChangedError, match="its ETag differs"):
            read_after(servers, change(DATA[::-1], conditions=False))

    def test_an_answer_that_lost_its_etag_is_refused(self, servers: WebServers) -> None:
        with pytest.raises(ReadError, match="now the answer has none"):
            read_after(servers, without_etag(DATA[::-1]))

    def test_without_etags_the_time_of_modification_tells(self, servers: WebServers) -> None:
        times = iter(["Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"])
        servers.origin.choose = lambda _: with_headers({"ETag": None, "Last-Modified": next(times)})
        with web_store() as store:
            source = store.open(servers.url)
            with pytest.raises(SourceChangedError, match="its Last-Modified differs"):
                source.read_into(300_000, memoryview(bytearray(10)))


def test_storage_opens_and_counts_them(servers: WebServers) -> None:
    storage = Storage(LoadConfig(), None, shared=False)
    try:
        source = storage.open(servers.url)
        assert read_whole(source) == DATA
        assert (storage.transport or "").startswith("curl ")
        assert storage.retries == 0
    finally:
        storage.close()
