"""Of several addresses of a name, one that is dead, refuses or is slow holds up none of the others."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.addresses import Addresses
from runai_model_streamer.io.http.curl.health import KNOWN, REFUSED, REST, Health
from runai_model_streamer.io.http.curl.transport import CurlTransport
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.proxies import Proxy
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE
from tests.servers import FaultServer, drip, refuse

ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
MB = 1e6
RANGE = 1 << 20
DATA = bytes(range(256)) * (RANGE // 256)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def resting(health: Health, *addresses: str) -> list[str]:
    return [address for address in addresses or (ONE, TWO, THREE) if health.rests(address)]


def test_an_address_that_takes_no_connection_rests_for_a_while() -> None:
    health = Health([ONE, TWO, THREE], clock := Clock())
    assert health.hurried
    health.unreachable(TWO)
    assert resting(health) == [TWO]
    clock.now += REST
    assert resting(health) == []


def test_where_none_takes_connections_none_rests_and_there_is_no_hurry() -> None:
    health = Health([ONE, TWO], clock := Clock())
    health.unreachable(ONE)
    assert not health.hurried  # the other one gets all the time there is
    health.unreachable(TWO)
    assert resting(health) == []
    assert not health.hurried
    clock.now += REST
    assert health.hurried


def test_an_address_that_brings_less_than_a_third_of_the_others_rests() -> None:
    health = Health([ONE, TWO, THREE], Clock())
    found: list[bool] = []
    for _ in range(KNOWN):
        found = [health.served(ONE, 30 * MB), health.served(THREE, 90 * MB), health.served(TWO, 9 * MB)]
    assert found == [False, False, True]
    assert resting(health) == [TWO]


@pytest.mark.parametrize("rates", [(30, 11, 12), (3, 3, 3), (90, 31, 90)])
def test_addresses_that_differ_by_less_all_serve(rates: tuple[float, ...]) -> None:
    health = Health([ONE, TWO, THREE], Clock())
    for _ in range(5 * KNOWN):
        for address, rate in zip((ONE, TWO, THREE), rates, strict=True):
            assert not health.served(address, rate * MB)


def test_a_few_slow_requests_say_nothing_of_an_address() -> None:
    health = Health([ONE, TWO], Clock())
    for number in range(10 * KNOWN):
        health.served(ONE, 30 * MB)
        health.served(TWO, 3 * MB if number % 3 == 0 else 30 * MB)
    assert resting(health) == []


def test_an_address_that_refuses_while_others_serve_rests() -> None:
    health = Health([ONE, TWO], Clock())
    for _ in range(KNOWN):
        health.served(ONE, 30 * MB)
    assert [health.served(TWO, REFUSED) for _ in range(2)] == [False, True]


def test_a_store_that_refuses_on_all_addresses_keeps_them() -> None:
    health = Health([ONE, TWO], Clock())
    for number in range(10 * KNOWN):
        for address in (ONE, TWO):
            assert not health.served(address, 30 * MB if number % 3 else REFUSED)


def test_what_an_address_did_before_its_rest_is_forgotten() -> None:
    health = Health([ONE, TWO], clock := Clock())
    for _ in range(KNOWN):
        health.served(ONE, 30 * MB)
        health.served(TWO, 1 * MB)
    clock.now += REST
    assert not any(health.served(TWO, 30 * MB) for _ in range(KNOWN))


def test_a_later_lookup_brings_others_and_keeps_what_is_known_of_the_rest() -> None:
    health = Health([ONE, TWO], Clock())
    health.unreachable(TWO)
    health.become([TWO, THREE])
    assert resting(health) == [TWO]
    assert not health.served(ONE, REFUSED)


class Pair:
    """Two servers of one name, and a transport that knows both addresses."""

    def __init__(self, library: libcurl.Library, second: FaultServer | None, port: int, timeout: float) -> None:
        self.second, self.port = second, port
        self.addresses = Addresses(lambda *_: [TWO, ONE])
        self.transport = CurlTransport(library, timeout, "/nowhere.pem", lambda _: Proxy(), self.addresses)

    def ask(self) -> Reply:
        """One range, by a thread as readers are."""
        request = SignedRequest(f"http://store.invalid:{self.port}/bucket/key", {}, 0.0)
        buffer = bytearray(RANGE)
        with Flights().flight() as flight:
            reply = self.transport.get(request, ByteRange(0, RANGE), None, memoryview(buffer), flight)
        assert reply.landed in (0, RANGE)
        assert reply.landed == 0 or buffer == DATA
        return reply

    def ask_together(self, count: int) -> list[int | None]:
        """The statuses of so many requests at once."""
        with ThreadPoolExecutor(count) as pool:
            return [each.result(PATIENCE).status for each in [pool.submit(self.ask) for _ in range(count)]]

    def ask_until(self, happened: Callable[[], object]) -> set[int | None]:
        """Ask by four at once, again and again: where threads are slow, they may take turns at one connection.

        Then ask as often as it takes until each connection that was kept has been used. Returns the statuses.
        """
        statuses: set[int | None] = set()
        deadline = time.monotonic() + PATIENCE
        while not happened():
            statuses.update(self.ask_together(4))
            assert time.monotonic() < deadline
        for _ in range(2 * KNOWN):
            statuses.update(self.ask_together(4))
        return statuses

    @property
    def resting(self) -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            known = pool.submit(self.addresses.of, f"http://store.invalid:{self.port}/").result(PATIENCE)
        assert known is not None
        assert known.health is not None
        return resting(known.health, ONE, TWO)


Begin = Callable[..., contextlib.AbstractContextManager[Pair]]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    try:
        library = libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(str(error))
    if libcurl_before_7_75(library.version):
        pytest.skip("this libcurl looks names up by itself")

    @contextlib.contextmanager
    def pair(*, served: bool = True, timeout: float = PATIENCE) -> Iterator[Pair]:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(FaultServer())
            second = stack.enter_context(FaultServer(address=(TWO, first.port))) if served else None
            for server in (first, second):
                if server is not None:
                    server.put("bucket", "key", DATA)
            made = Pair(library, second, first.port, timeout)
            stack.callback(made.transport.close)
            yield made

    return pair


def libcurl_before_7_75(version: str) -> bool:
    return tuple(map(int, version.split(".")[:2])) < (7, 75)


def test_connections_spread_over_the_addresses(begin: Begin) -> None:
    with begin() as pair:
        second = pair.second
        assert second is not None
        assert pair.ask_until(lambda: second.requests) == {206}
        assert pair.resting == []


def test_where_nobody_listens_no_request_fails(begin: Begin) -> None:
    with begin(served=False) as pair:
        assert pair.ask_together(4) == [206] * 4
        assert pair.resting == [TWO]


def test_an_address_that_does_not_answer_takes_part_of_the_timeout_once(begin: Begin) -> None:
    """SYN packets are dropped where the queue of those that wait to be accepted is full."""
    with begin(served=False, timeout=4.0) as pair, contextlib.ExitStack() as stack:
        listening = stack.enter_context(closing(socket.create_server((TWO, pair.port), backlog=0)))
        for _ in range(4):
            filling = stack.enter_context(closing(socket.socket()))
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        assert pair.ask_together(4) == [206] * 4
        assert pair.resting == [TWO]


def test_an_address_that_refuses_gets_no_more_requests(begin: Begin) -> None:
    with begin() as pair:
        assert pair.second is not None
        pair.second.choose = lambda _: refuse(503, "SlowDown")
        pair.ask_until(lambda: pair.resting)
        assert pair.resting == [TWO]
        before = len(pair.second.requests)
        assert pair.ask_together(8) == [206] * 8
        assert len(pair.second.requests) == before
        pair.second.wait_closed()


def test_an_address_that_is_slow_gets_no_more_requests(begin: Begin) -> None:
    with begin() as pair:
        assert pair.second is not None
        pair.second.choose = lambda _: drip(RANGE // 8, 0.1)
        assert pair.ask_until(lambda: pair.resting) == {206}
        assert pair.resting == [TWO]
        before = len(pair.second.requests)
        assert pair.ask_together(8) == [206] * 8
        assert len(pair.second.requests) == before
        pair.second.wait_closed()
