"""The addresses of a store's name: looked up once for all connections, which spread over them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.addresses import Addresses
from runai_model_streamer.io.http.curl.transport import CurlTransport
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.proxies import Proxy
from runai_model_streamer.io.http.transport import SignedRequest
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE
from tests.servers import FaultServer

T = TypeVar("T")


def elsewhere(work: Callable[[], T]) -> T:
    """In another thread than the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(PATIENCE)


def settings(addresses: Addresses, url: str, times: int) -> list[str]:
    """What libcurl is told for so many connections."""
    found = elsewhere(lambda: [addresses.of(url) for _ in range(times)])
    return [known.setting for known in found if known is not None]


class Names:
    """Finds the same addresses for each name, and counts the lookups."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if not self.addresses:
            raise OSError("no such name")
        return self.addresses


def test_each_connection_begins_with_another_address() -> None:
    addresses = Addresses(names := Names("10.0.0.1", "10.0.0.2"))
    found = settings(addresses, "https://store/key", 3)
    first, second = "+store:443:10.0.0.1,10.0.0.2", "+store:443:10.0.0.2,10.0.0.1"
    assert found == [first, second, first]
    assert names.asked == [("store", 443)]


def test_the_family_that_came_first_stays_first() -> None:
    addresses = Addresses(Names("fd00::1", "fd00::2", "10.0.0.1"))
    found = settings(addresses, "http://store:9000/key", 2)
    assert found == ["+store:9000:[fd00::1],[fd00::2],10.0.0.1", "+store:9000:[fd00::2],[fd00::1],10.0.0.1"]


def test_after_a_while_it_looks_again() -> None:
    now = 100.0
    addresses = Addresses(names := Names("10.0.0.1"), lambda: now)
    elsewhere(lambda: addresses.of("http://store/key"))
    now = 129.0
    elsewhere(lambda: addresses.of("http://store/key"))
    assert len(names.asked) == 1
    now = 131.0
    elsewhere(lambda: addresses.of("http://store/key"))
    assert len(names.asked) == 2


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/key", "http://[::1]:9000/key", "http:///key", "https://10.0.0.1/key"]
)
def test_what_is_no_name_is_not_looked_up(url: str) -> None:
    addresses = Addresses(names := Names("10.0.0.1"))
    assert elsewhere(lambda: addresses.of(url)) is None
    assert names.asked == []


def test_a_name_that_is_not_found_is_left_to_libcurl_which_says_so() -> None:
    addresses = Addresses(names := Names())
    assert elsewhere(lambda: [addresses.of("http://store/key") for _ in range(5)]) == [None] * 5
    assert len(names.asked) == 1


def test_the_main_thread_leaves_it_to_libcurl_so_that_ctrl_c_works() -> None:
    assert threading.current_thread() is threading.main_thread()
    addresses = Addresses(names := Names("10.0.0.1"))
    assert addresses.of("http://store/key") is None
    assert names.asked == []


@pytest.fixture
def library() -> libcurl.Library:
    try:
        return libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(str(error))


def test_hundreds_of_connections_look_a_name_up_once(library: libcurl.Library, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    names = Names("127.0.0.1")
    with FaultServer() as server:
        server.put("bucket", "key", data)
        port = server.endpoint.rpartition(":")[2]
        request = SignedRequest(f"http://store.invalid:{port}/bucket/key", {}, 0.0)
        transport = CurlTransport(library, PATIENCE, str(tmp_path / "none.pem"), lambda _: Proxy(), Addresses(names))
        together = threading.Barrier(100)

        def read(number: int) -> bytes:
            buffer = bytearray(1000)
            together.wait(PATIENCE)
            with Flights().flight() as flight:
                span = ByteRange(number, number + 1000)
                transport.get(request, span, None, memoryview(buffer), flight).check()
            return bytes(buffer)

        try:
            with ThreadPoolExecutor(100) as pool:
                assert list(pool.map(read, range(100))) == [data[number : number + 1000] for number in range(100)]
        finally:
            transport.close()
    assert names.asked == [("store.invalid", int(port))]
