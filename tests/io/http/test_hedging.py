"""Ranges that are asked for a second time: every byte right, counted once, and nobody writes where another one does."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from typing_extensions import override

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.hedging import HedgedTransport, hedged
from runai_model_streamer.io.http.laggards import HedgePolicy
from runai_model_streamer.io.http.transport import Cancellation, Reply, SignedRequest, Transport
from runai_model_streamer.ranges import ByteRange
from tests.checkpoints import PATIENCE

SIZE = 1000
DATA = random.Random(3).randbytes(40 * SIZE)
REQUEST = SignedRequest("http://host/bucket/key", {}, 0.0)
EAGER = HedgePolicy(
    min_bytes=1, min_seconds=0.0, known=3, late=2.0, beyond=1.0, late_at_end=1.0, share=0.5, held=1 << 20, tick=0.0005
)


class Scripted(Transport):
    """Sends ranges of `DATA` piece by piece, some of them slowly, until the request is cut.

    Args:
        random: what happens to each request.
        slow: the part of requests that take fifty times as long.
        fails: the part that break.
    """

    name = "scripted"

    def __init__(self, random: random.Random, slow: float = 0.0, fails: float = 0.0) -> None:
        self.asked: list[ByteRange] = []
        self.writing: set[int] = set()
        self.shared = 0
        self._random, self._slow, self._fails = random, slow, fails
        self._lock = threading.Lock()

    def asked_before(self, span: ByteRange) -> bool:
        """Whether it, or more of the same range, was asked for."""
        return any(each.end == span.end for each in self.asked)

    def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
        """Answer in place of the script; None leaves it to that."""
        return None

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        if (reply := self.instead(span, view, cancellation)) is not None:
            return reply
        address = np.frombuffer(view, np.uint8).ctypes.data
        with self._lock:
            again = self.asked_before(span)
            self.asked.append(span)
            pause = 0.0002 * (50 if self._random.random() < self._slow and not again else 1)
            breaks = self._random.randrange(10) if self._random.random() < self._fails else None
            self.shared += address in self.writing
            self.writing.add(address)
        reply = Reply(206, {"content-range": f"bytes {span.start}-{span.end - 1}/{len(DATA)}"})
        cancellation.landed = lambda: reply.landed
        step = span.size // 10
        try:
            for piece in range(10):
                time.sleep(pause)
                if cancellation.cut or piece == breaks:
                    view[reply.landed :] = b"\xee" * (span.size - reply.landed)  # undefined, as the protocol says
                    reply.fail(TransportError(Failure.CLOSED))
                    return reply
                view[piece * step : (piece + 1) * step] = DATA[span.start + piece * step :][:step]
                reply.landed += step
            return reply
        finally:
            with self._lock:
                self.writing.discard(address)

    @override
    def close(self) -> None:
        pass


def spans() -> Iterator[ByteRange]:
    for start in range(0, len(DATA), SIZE):
        yield ByteRange(start, start + SIZE)


def load(transport: Transport, threads: int = 6) -> tuple[bytes, int]:
    """The bytes that were read, each range until it was whole, and how many bytes counted."""
    buffer = bytearray(len(DATA))
    counted = []

    def read(span: ByteRange) -> None:
        view = memoryview(buffer)[span.start : span.end]
        landed = 0
        while landed < span.size:
            with Flights().flight() as flight:
                reply = transport.get(REQUEST, ByteRange(span.start + landed, span.end), None, view[landed:], flight)
            before = landed
            # Whole steps only: the script's pieces are tenths of a range.
            landed += reply.landed if reply.landed == span.size - landed else 0
            counted.append(landed - before)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, spans()))
    return bytes(buffer), sum(counted)


@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_random_schedules_bring_every_byte_once(seed: int) -> None:
    hedged = 0
    for part in range(10):
        scripted = Scripted(random.Random(10 * seed + part), slow=0.1, fails=0.1)
        transport = HedgedTransport(scripted, EAGER)
        assert load(transport) == (DATA, len(DATA))
        transport.close()
        assert scripted.shared == 0
        assert transport.spent < len(DATA)
        hedged += transport.asked
    assert hedged > 0


def test_a_range_that_lags_is_brought_by_the_second_request() -> None:
    release = threading.Event()

    class Stuck(Scripted):
        """The first request for the last range waits until it is cut."""

        @override
        def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
            if span.end == len(DATA) and span not in self.asked:
                self.asked.append(span)
                view[:] = b"\xee" * len(view)
                while not cancellation.cut:
                    release.wait(0.001)
                return Reply(206, {}, 10, TransportError(Failure.CLOSED))
            return None

    transport = HedgedTransport(stuck := Stuck(random.Random(1)), replace(EAGER, times=1))
    assert load(transport) == (DATA, len(DATA))
    transport.close()
    assert stuck.asked.count(ByteRange(len(DATA) - SIZE, len(DATA))) == 2


class Halfway(Scripted):
    """The first request for the last range stops halfway, until it is cut."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(random.Random(1))
        self.headers = headers

    @override
    def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
        if span.end < len(DATA) or self.asked_before(span):
            return None
        self.asked.append(span)
        reply = Reply(206, self.headers, SIZE // 2, TransportError(Failure.CLOSED))
        view[: SIZE // 2] = DATA[-SIZE : -SIZE // 2]
        view[SIZE // 2 :] = b"\xee" * (SIZE // 2)
        cancellation.landed = lambda: reply.landed
        while not cancellation.cut:
            time.sleep(0.001)
        return reply


def test_only_what_a_range_lacks_is_asked_for_again() -> None:
    halfway = Halfway({"content-range": f"bytes 0-0/{len(DATA)}"})
    transport = HedgedTransport(halfway, replace(EAGER, times=1))
    assert load(transport) == (DATA, len(DATA))
    transport.close()
    assert [each for each in halfway.asked if each.end == len(DATA)] == [
        ByteRange(len(DATA) - SIZE, len(DATA)),
        ByteRange(len(DATA) - SIZE // 2, len(DATA)),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-range": "bytes 0-0/1"},
        {"content-range": f"bytes 0-0/{len(DATA)}", "etag": '"another"'},
        {"content-range": f"bytes 0-0/{len(DATA)}", "last-modified": "yesterday"},
    ],
)
def test_two_answers_that_are_of_different_versions_are_not_joined(headers: dict[str, str]) -> None:
    halfway = Halfway(headers)
    transport = HedgedTransport(halfway, EAGER)
    last = ByteRange(len(DATA) - SIZE, len(DATA))
    for span in list(spans())[:20]:
        transport.get(REQUEST, span, None, memoryview(bytearray(SIZE)), Flight())
    reply = transport.get(REQUEST, last, None, memoryview(bytearray(SIZE)), Flight())
    assert reply.landed == SIZE // 2
    with pytest.raises(TransportError):
        reply.check()
    transport.close()


def test_a_second_request_that_is_late_too_is_followed_by_a_third() -> None:
    class Twice(Scripted):
        @override
        def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
            if span.end < len(DATA) or self.asked.count(span) == 2:
                return None
            self.asked.append(span)
            while not cancellation.cut:
                time.sleep(0.001)
            return Reply(206, {}, 0, TransportError(Failure.CLOSED))

    transport = HedgedTransport(twice := Twice(random.Random(1)), EAGER)
    assert load(transport) == (DATA, len(DATA))
    transport.close()
    assert twice.asked.count(ByteRange(len(DATA) - SIZE, len(DATA))) == 3


def test_ranges_that_keep_up_are_asked_for_once() -> None:
    transport = HedgedTransport(scripted := Scripted(random.Random(1)), HedgePolicy(min_bytes=1, min_seconds=PATIENCE))
    assert load(transport) == (DATA, len(DATA))
    assert len(scripted.asked) == len(DATA) // SIZE
    assert transport.spent == 0


def test_short_ranges_are_asked_for_once() -> None:
    transport = HedgedTransport(Scripted(random.Random(1), slow=0.2))
    assert load(transport) == (DATA, len(DATA))
    assert transport.spent == 0


def test_a_second_request_that_fails_changes_nothing() -> None:
    class OnlyFirst(Scripted):
        @override
        def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
            if self.asked_before(span):
                self.asked.append(span)
                raise ConnectionError("no second connection")
            return None

    transport = HedgedTransport(only := OnlyFirst(random.Random(2), slow=0.2), EAGER)
    assert load(transport) == (DATA, len(DATA))
    transport.close()
    assert len(only.asked) > len(DATA) // SIZE


def test_a_failure_of_the_first_request_ends_the_second() -> None:
    flight = Flight()
    began = threading.Event()
    cut = threading.Event()

    class Both(Scripted):
        @override
        def instead(self, span: ByteRange, view: memoryview, cancellation: Cancellation) -> Reply | None:
            if span.start or self.asked.count(span) > 1:
                return None
            self.asked.append(span)
            if self.asked.count(span) == 1:
                assert began.wait(PATIENCE)
                return Reply(206, {}, 0, TransportError(Failure.CLOSED))
            began.set()
            while not cancellation.cut:
                time.sleep(0.001)
            cut.set()
            return Reply(206, {}, 0, TransportError(Failure.CLOSED))

    transport = HedgedTransport(Both(random.Random(2)), replace(EAGER, times=1))
    for span in list(spans())[1:20]:
        transport.get(REQUEST, span, None, memoryview(bytearray(SIZE)), Flight())
    reply = transport.get(REQUEST, ByteRange(0, SIZE), None, memoryview(bytearray(SIZE)), flight)
    assert cut.wait(PATIENCE)
    with pytest.raises(TransportError):
        reply.check()
    assert not flight.cut
    transport.close()


def test_closing_leaves_no_thread() -> None:
    transport = HedgedTransport(Scripted(random.Random(5), slow=0.2), EAGER)
    load(transport)
    transport.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("runai-hedge")] == []


def test_without_memory_for_a_second_answer_nothing_is_asked_for_twice() -> None:
    inner = Scripted(random.Random(1))
    assert hedged(inner, 0) is inner
    assert isinstance(hedged(inner, SIZE), HedgedTransport)
