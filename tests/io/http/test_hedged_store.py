"""A store that stalls one range among many, over both transports: a second request brings it before any timeout."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.hedging import HedgedTransport
from runai_model_streamer.io.http.laggards import HedgePolicy
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE
from tests.io.transports import store_of
from tests.servers import Fault, FaultServer, Request, stall_after, stall_before_headers

pytestmark = pytest.mark.usefixtures("aws_files", "transport")

MIB = 1 << 20
DATA = random.Random(7).randbytes(30 * MIB)
LAST = ByteRange(29 * MIB, 30 * MIB)
GENEROUS = HedgePolicy(share=10.0)
"""A busy machine may make other ranges late as well."""


class Reads:
    """Reads ranges of the server's object."""

    def __init__(self, transport: HedgedTransport, server: FaultServer) -> None:
        self.transport = transport
        self.flights = Flights()
        self._request = SignedRequest(f"{server.endpoint}/bucket/model", {}, time.time())

    def read(self, span: ByteRange, view: memoryview) -> Reply:
        with self.flights.flight() as flight:
            return self.transport.get(self._request, span, None, view, flight)

    def all(self) -> bytes:
        buffer = bytearray(len(DATA))
        spans = [ByteRange(start, start + MIB) for start in range(0, len(DATA), MIB)]
        with ThreadPoolExecutor(4) as pool:
            replies = pool.map(lambda span: self.read(span, memoryview(buffer)[span.start : span.end]), spans)
            assert [reply.landed for reply in replies] == [MIB] * len(spans)
        return bytes(buffer)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.put("bucket", "model", DATA)
        yield server


@pytest.fixture
def reads(server: FaultServer) -> Iterator[Reads]:
    with store_of(server, hedge=False) as store:
        reads = Reads(HedgedTransport(store.access().transport, GENEROUS), server)
        yield reads
        reads.transport.close()


class StallsOnce:
    """The first request for the last range stalls."""

    def __init__(self, fault: Fault) -> None:
        self.asked = 0
        self._fault = fault
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if request.span is None or request.span[1] != LAST.end - 1:
            return None
        with self._lock:
            self.asked += 1
            return self._fault if self.asked == 1 else None


@pytest.mark.parametrize("sent", [None, 0, 300_000, MIB - 1])
def test_a_range_that_stalls_comes_by_a_second_request(server: FaultServer, reads: Reads, sent: int | None) -> None:
    server.choose = stalls = StallsOnce(stall_before_headers() if sent is None else stall_after(sent))
    assert reads.all() == DATA
    assert stalls.asked == 2


def test_an_interrupt_ends_both_requests_and_leaves_no_thread(server: FaultServer, reads: Reads) -> None:
    assert reads.all() == DATA
    server.choose = lambda _: stall_after(1000)
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(reads.read(LAST, memoryview(bytearray(MIB)))))
    thread.start()
    for _ in range(2):
        assert server.stalled.acquire(timeout=PATIENCE)
    reads.flights.stop()
    thread.join(PATIENCE)
    assert replies[0].landed < MIB
    reads.transport.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("runai-hedge")] == []
