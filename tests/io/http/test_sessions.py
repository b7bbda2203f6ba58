"""TLS connections resume each other's sessions."""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.libcurl import Easy
from runai_model_streamer.io.http.curl.sessions import Sessions
from runai_model_streamer.io.http.curl.transport import CurlTransport
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.proxies import Proxy
from runai_model_streamer.io.http.transport import SignedRequest
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE
from tests.servers import Certificate, FaultServer

DATA = bytes(range(256)) * 1000


class Counting(FaultServer):
    """Knows which of its connections resumed a session."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(certificate)
        self.resumed: list[bool] = []
        self.together = Barrier(1)
        self._seen: set[socket.socket] = set()

    def serve(self, handler: Any) -> None:
        if handler.connection not in self._seen:
            self._seen.add(handler.connection)
            self.resumed.append(handler.connection.session_reused)
        self.together.wait(PATIENCE)
        super().serve(handler)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def server(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Counting]:
    with Counting(certificate) as server:
        assert server.tls is not None
        server.tls.maximum_version = request.param
        server.put("bucket", "key", DATA)
        yield server


def transport_library() -> libcurl.Library:
    try:
        return libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(str(error))


@pytest.fixture
def transport(certificate: Certificate) -> Iterator[CurlTransport]:
    made = CurlTransport(transport_library(), PATIENCE, str(certificate.certificate), lambda _: Proxy())
    yield made
    made.close()


def read(transport: CurlTransport, server: FaultServer, number: int) -> bytes:
    buffer = bytearray(1000)
    with Flights().flight() as flight:
        request = SignedRequest(f"{server.endpoint}/bucket/key", {}, 0.0)
        span = ByteRange(number, number + len(buffer))
        transport.get(request, span, None, memoryview(buffer), flight).check()
    return bytes(buffer)


def test_later_connections_of_any_thread_resume_the_first_ones_session(
    server: Counting, transport: CurlTransport
) -> None:
    def at_once(count: int) -> list[bytes]:
        server.together = Barrier(count)  # each has a connection of its own
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(partial(read, transport, server), range(count)))

    # libcurl compares handles, too: the first may be the only one with a file of authorities.
    for count in (1, 2, 20):
        assert at_once(count) == [DATA[number : number + 1000] for number in range(count)]
    assert server.resumed[:2] == [False, False]
    assert len(server.resumed) == 20
    # Since 8.12 libcurl uses a ticket of TLS 1.3 once. Each connection brings two.
    assert sum(server.resumed) >= 2


def closed(sessions: Sessions) -> bool:
    """A call, so that mypy looks again."""
    return sessions.closed


def test_sessions_are_kept_until_the_last_handle_is_closed() -> None:
    library = transport_library()
    sessions, easy = Sessions(library), Easy(library)
    sessions.apply(easy)
    sessions.close()
    assert not closed(sessions)
    easy.close()
    sessions.close()
    assert closed(sessions)
    sessions.close()
