"""Faults of the store and the network: what is asked again, what fails, and what ends a read that hangs."""

import contextlib
import gc
import logging
import random
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runai_model_streamer.errors import (
    CredentialsError,
    InterruptedReadError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageTimeoutError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from runai_model_streamer.io.s3.access import Access, make_access
from tests.checkpoints import PATIENCE
from tests.io.transports import TIMEOUT, URL, store_of
from tests.servers import (
    Certificate,
    Exchange,
    Fault,
    FaultServer,
    change,
    closing,
    cut_short,
    drip,
    garbage,
    no_length,
    other_range,
    refuse,
    refusing_if_match,
    reset_after,
    reset_at_once,
    right,
    shorter,
    small_whole,
    stall_after,
    stall_before_headers,
    whole_object,
    without_etag,
)

DATA = random.Random(1).randbytes(2_000_000)
AT = 500_000
"""Where the tests read: beyond what the opening brings."""
SIZE = 1_000_000
FAR = 10 * PATIENCE
"""Seconds; a wait of such a length has been ended by something else."""

pytestmark = pytest.mark.usefixtures("aws_files", "transport", "waits")


class Closing:
    """A transport that notes that it is closed."""

    def __init__(self, inner: Transport, closed: list[str]) -> None:
        self.name = inner.name
        self.get = inner.get
        self._closed = closed

    def close(self) -> None:
        self._closed.append("transport")


def read_after(server: FaultServer, *faults: Fault, retries: int = 3, timeout: float = TIMEOUT) -> bytes:
    """Open the object, and read a part of it while the faults happen."""
    buffer = bytearray(SIZE)
    with store_of(server, retries=retries, timeout=timeout) as store:
        source = store.open(URL)
        server.script(*faults)
        source.read_into(AT, memoryview(buffer))
    return bytes(buffer)


def ranges(server: FaultServer) -> list[str]:
    return [request.headers["Range"].removeprefix("bytes=") for request in server.requests]


class TestRecovered:
    @pytest.mark.parametrize(
        ("name", "faults"),
        [
            ("busy", [refuse(503, "SlowDown"), refuse(503, "SlowDown"), refuse(503, "ServiceUnavailable")]),
            ("failing", [refuse(500, "InternalError"), refuse(502, ""), refuse(504, "")]),
            ("throttling", [refuse(429, "TooManyRequests")]),
            ("impatient", [refuse(400, "RequestTimeout")]),
            ("reset at once", [reset_at_once()]),
            ("reset in the headers' wake", [reset_after(0)]),
            ("reset in the body", [reset_after(400_000), reset_after(400_000)]),
            ("cut short", [cut_short(123_456), cut_short(0), cut_short(400_000)]),
            ("without a length", [no_length()]),
            ("closing", [reset_at_once(), closing()]),
            ("garbage", [garbage()]),
            ("slow", [drip(100_000, 0.01)]),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_passing_fault_is_overcome_with_every_byte_right(
        self, server: FaultServer, name: str, faults: list[Fault]
    ) -> None:
        assert read_after(server, *faults) == DATA[AT : AT + SIZE]
        assert not server.faults

    def test_a_retry_goes_on_from_the_byte_already_landed(self, server: FaultServer) -> None:
        read_after(server, cut_short(300_000), cut_short(600_000))
        assert ranges(server)[1:] == ["500000-1499999", "800000-1499999", "1400000-1499999"]

    @pytest.mark.parametrize("fault", [stall_before_headers(), stall_after(250_000)])
    def test_a_stall_is_cut_off_by_the_timeout_and_asked_again(self, server: FaultServer, fault: Fault) -> None:
        # On a busy machine a right answer, too, may be later than the timeout.
        assert read_after(server, fault, retries=20, timeout=0.3) == DATA[AT : AT + SIZE]

    def test_a_slow_body_is_no_stall_as_long_as_bytes_come(self, server: FaultServer) -> None:
        began = time.monotonic()
        assert read_after(server, drip(20_000, 0.05), retries=0, timeout=2.0) == DATA[AT : AT + SIZE]
        assert time.monotonic() - began > 2.0

    def test_waits_grow_to_a_cap_and_are_drawn_from_their_longer_half(
        self, server: FaultServer, waits: list[tuple[float, float]]
    ) -> None:
        read_after(server, *[refuse(503, "SlowDown")] * 8, retries=8)
        assert waits == [(longest / 2, longest) for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0)]

    def test_opening_overcomes_faults_too(self, server: FaultServer) -> None:
        server.script(refuse(503, "SlowDown"), reset_after(1000), cut_short(99))
        with store_of(server, retries=3) as store:
            source = store.open(URL)
            buffer = bytearray(1000)
            source.read_into(0, memoryview(buffer))
        assert buffer == DATA[:1000]

    def test_a_connection_that_broke_is_not_used_again(self, server: FaultServer) -> None:
        read_after(server, cut_short(10))
        assert (len(server.requests), server.connections) == (3, 2)

    def test_each_retry_is_logged_with_its_reason(self, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "runai_model_streamer"):
            read_after(server, refuse(503, "SlowDown"), reset_after(0))
        assert [re.sub(r"\d\.\d s", "_ s", record.getMessage()) for record in caplog.records] == [
            f"{URL}: bytes 500000-1500000: attempt 1 failed: HTTP 503 SlowDown, request id REQUEST2; retrying in _ s",
            f"{URL}: bytes 500000-1500000: attempt 2 failed: the connection broke; retrying in _ s",
        ]

    @pytest.mark.parametrize("seed", range(12))
    def test_any_mix_of_passing_faults_ends_with_every_byte_right(self, server: FaultServer, seed: int) -> None:
        chance = random.Random(seed)
        kinds: list[Callable[[], Fault]] = [
            lambda: refuse(503, "SlowDown"),
            lambda: reset_after(chance.randrange(SIZE)),
            lambda: cut_short(chance.randrange(SIZE)),
            reset_at_once,
            garbage,
            no_length,
            closing,
            right,
        ]
        faults = [chance.choice(kinds)() for _ in range(4)]
        assert read_after(server, *faults, retries=4) == DATA[AT : AT + SIZE]


class TestFailed:
    @pytest.mark.parametrize(
        ("fault", "kind", "says"),
        [
            (refuse(503, "SlowDown"), ReadError, "the store is failing or overloaded (HTTP 503 SlowDown, request id"),
            (reset_after(0), StorageUnreachableError, "broke: Connection reset by peer"),
            (cut_short(0), ReadError, "the answer's body had 0 bytes instead of 1000000, every time"),
            (garbage(), StorageUnreachableError, "does not speak HTTP"),
        ],
    )
    def test_a_fault_that_stays_is_an_error_after_all_attempts(
        self, server: FaultServer, fault: Fault, kind: type[StreamerError], says: str
    ) -> None:
        with pytest.raises(StreamerError) as caught:
            read_after(server, fault, fault, fault, retries=2)
        assert type(caught.value) is kind
        assert says in str(caught.value)
        assert re.search(r"bytes 500000-1500000, 3 attempts in \d\.\d s\)", str(caught.value))
        assert "RUNAI_STREAMER_" in str(caught.value)
        assert len(server.requests) == 4

    @pytest.mark.parametrize("fault", [stall_before_headers(), stall_after(1000)])
    def test_a_stall_that_stays_is_a_timeout(self, server: FaultServer, fault: Fault) -> None:
        server.script(fault, fault)
        with store_of(server, retries=1, timeout=0.4) as store:
            # Opened without a request, which on a busy machine may take longer than that.
            source = store.open(URL, (len(DATA), None))
            says = r"or no more of it, for 0\.4 s \(bytes 500000-1500000, 2 attempts"
            with pytest.raises(StorageTimeoutError, match=says):
                source.read_into(AT, memoryview(bytearray(SIZE)))

    @pytest.mark.parametrize(
        ("fault", "kind", "says"),
        [
            (refuse(403, "AccessDenied"), PermissionError, "access denied"),
            (refuse(404, "NoSuchKey"), NotFoundError, "there is no such object"),
            (whole_object(), ReadError, "the server ignored Range"),
            (other_range(5), ReadError, "the store sent bytes 500005-1500005"),
            (shorter(5), ReadError, "in a body of 999995 bytes"),
        ],
    )
    def test_a_fault_that_cannot_pass_is_an_error_at_once(
        self, server: FaultServer, fault: Fault, kind: type[Exception], says: str
    ) -> None:
        with pytest.raises(kind, match=re.escape(says)):
            read_after(server, fault)
        assert len(server.requests) == 2

    def test_an_error_holds_the_buffer_no_longer_than_it_lives(self, server: FaultServer) -> None:
        def fail(slab: memoryview) -> str:
            # Not pytest.raises, which keeps the frame that it stands in.
            try:
                source.read_into(AT, slab)
            except StreamerError as error:
                return str(error)
            return "read"

        with store_of(server, retries=1) as store:
            source = store.open(URL)
            server.choose = lambda request: reset_at_once()
            slab = np.zeros(SIZE, np.uint8)
            alive = weakref.ref(slab)
            gc.disable()
            try:
                assert "2 attempts" in fail(slab.data)
                del slab
                assert alive() is None
            finally:
                gc.enable()


class TestChanged:
    def test_an_object_overwritten_since_it_was_opened_is_refused(self, server: FaultServer) -> None:
        with pytest.raises(SourceChangedError, match=r"was written to while it was being read \(HTTP 412"):
            read_after(server, change(DATA[::-1]))
        # The last one without If-Match, before a writer is accused.
        assert ["If-Match" in request.headers for request in server.requests] == [False, True, False]

    def test_an_object_overwritten_between_two_attempts_is_refused(self, server: FaultServer) -> None:
        with pytest.raises(SourceChangedError, match="HTTP 412"):
            read_after(server, cut_short(1000), change(DATA[::-1]))

    def test_a_store_that_knows_no_if_match_is_seen_through_by_its_etag(self, server: FaultServer) -> None:
        with pytest.raises(SourceChangedError, match="its ETag differs"):
            read_after(server, change(DATA[::-1], conditions=False))

    def test_an_answer_that_lost_its_etag_is_refused(self, server: FaultServer) -> None:
        with pytest.raises(ReadError, match="had an ETag when it was opened, and now the answer has none") as caught:
            read_after(server, without_etag(DATA[::-1]))
        assert type(caught.value) is ReadError

    def test_an_answer_that_lost_its_etag_is_refused_after_a_retry_too(self, server: FaultServer) -> None:
        with pytest.raises(ReadError, match="now the answer has none"):
            read_after(server, cut_short(1000), without_etag(DATA[::-1]))

    def test_an_etag_that_another_process_knows_is_held_to_as_well(self, server: FaultServer) -> None:
        with store_of(server) as store:
            source = store.open(URL, (len(DATA), '"known"'))
            server.choose = lambda request: without_etag(DATA[::-1])
            with pytest.raises(ReadError, match="now the answer has none"):
                source.read_into(AT, memoryview(bytearray(10)))

    @pytest.mark.parametrize("later", [None, "Tue, 02 Jan 2024 00:00:00 GMT"])
    def test_without_etags_the_time_of_modification_tells(self, server: FaultServer, later: str | None) -> None:
        server.put("bucket", "model.safetensors", DATA, etag=None)
        dates = iter(["Mon, 01 Jan 2024 00:00:00 GMT", later])

        def dated(exchange: Exchange) -> None:
            exchange.head(headers={"Last-Modified": next(dates)})
            exchange.send(exchange.asked)

        server.choose = lambda request: dated
        with store_of(server) as store:
            source = store.open(URL)
            if later is None:
                source.read_into(AT, memoryview(bytearray(10)))
                return
            with pytest.raises(SourceChangedError, match="its Last-Modified differs"):
                source.read_into(AT, memoryview(bytearray(10)))

    @pytest.mark.parametrize("refusal", [(412, "PreconditionFailed"), (412, ""), (501, "NotImplemented")])
    def test_a_store_whose_if_match_fails_is_read_without_it(
        self, server: FaultServer, caplog: pytest.LogCaptureFixture, refusal: tuple[int, str]
    ) -> None:
        buffer = bytearray(SIZE)
        server.choose = lambda request: refusing_if_match(*refusal)
        with caplog.at_level(logging.INFO, "runai_model_streamer"), store_of(server, retries=0) as store:
            source = store.open(URL)
            for start in (0, SIZE // 2):
                source.read_into(AT + start, memoryview(buffer)[start : start + SIZE // 2])
        assert buffer == DATA[AT : AT + SIZE]
        assert ["If-Match" in request.headers for request in server.requests] == [False, True, False, False]
        assert caplog.text.count("the store's If-Match does not work") == 1

    def test_a_store_whose_if_match_fails_is_still_seen_through_by_its_etag(self, server: FaultServer) -> None:
        server.choose = lambda request: refusing_if_match()
        with store_of(server, retries=0) as store:
            source = store.open(URL)
            source.read_into(AT, memoryview(bytearray(10)))
            server.put("bucket", "model.safetensors", DATA[::-1])
            with pytest.raises(SourceChangedError, match="its ETag differs"):
                source.read_into(AT, memoryview(bytearray(10)))

    def test_a_busy_store_is_asked_again_before_a_writer_is_accused(self, server: FaultServer) -> None:
        assert read_after(server, refuse(412, "PreconditionFailed"), refuse(503, "SlowDown")) == DATA[AT : AT + SIZE]

    def test_an_object_that_is_gone_by_then_is_not_found(self, server: FaultServer) -> None:
        with pytest.raises(NotFoundError):
            read_after(server, refuse(412, "PreconditionFailed"), refuse(404, "NoSuchKey"))

    def test_a_store_without_etags_is_seen_through_by_the_size(self, server: FaultServer) -> None:
        server.put("bucket", "model.safetensors", DATA, etag=None)
        with store_of(server) as store:
            source = store.open(URL)
            server.put("bucket", "model.safetensors", DATA + b"more", etag=None)
            with pytest.raises(SourceChangedError, match="has 2000004 bytes, and had 2000000 when it was opened"):
                source.read_into(AT, memoryview(bytearray(10)))

    def test_an_object_that_shrank_below_the_range_is_refused(self, server: FaultServer) -> None:
        server.put("bucket", "model.safetensors", DATA, etag=None)
        with store_of(server) as store:
            source = store.open(URL)
            server.put("bucket", "model.safetensors", DATA[:1000], etag=None)
            with pytest.raises(SourceChangedError, match="HTTP 416 InvalidRange"):
                source.read_into(AT, memoryview(bytearray(10)))


class TestWholeObjects:
    """200 where HTTP allows it: all of the object was asked for."""

    @pytest.mark.parametrize("length", [True, False], ids=["with a length", "in chunks"])
    @pytest.mark.parametrize("size", [1, 1000, PREFIX_BYTES - 1, PREFIX_BYTES])
    def test_an_object_no_longer_than_what_opening_asks_for_is_read(
        self, server: FaultServer, size: int, length: bool
    ) -> None:
        server.put("bucket", "model.safetensors", DATA[:size])
        server.choose = lambda request: small_whole(length=length)
        buffer = bytearray(size)
        with store_of(server, retries=0) as store:
            source = store.open(URL)
            assert (source.size, source.version) == (size, server.etag("bucket", "model.safetensors"))
            source.read_into(0, memoryview(buffer))
        assert buffer == DATA[:size]

    def test_a_read_of_all_of_a_longer_one_is_right(self, server: FaultServer) -> None:
        buffer = bytearray(len(DATA))
        server.choose = lambda request: small_whole()
        with store_of(server, retries=0) as store:
            store.open(URL, (len(DATA), None)).read_into(0, memoryview(buffer))
        assert buffer == DATA

    def test_one_that_is_cut_short_is_asked_for_again(self, server: FaultServer) -> None:
        def cut(exchange: Exchange) -> None:
            exchange.head(200)
            exchange.send(exchange.asked[:400])
            exchange.hang_up()

        server.put("bucket", "model.safetensors", DATA[:1000])
        server.script(cut, small_whole())
        with store_of(server) as store:
            assert store.open(URL).size == 1000
        assert len(server.requests) == 2

    def test_one_that_was_replaced_by_another_is_refused(self, server: FaultServer) -> None:
        server.put("bucket", "model.safetensors", DATA[:1000])
        with store_of(server) as store:
            source = store.open(URL, (1000, server.etag("bucket", "model.safetensors")))
            server.put("bucket", "model.safetensors", DATA[1000:2000])
            server.choose = lambda request: small_whole()
            with pytest.raises(SourceChangedError):
                source.read_into(0, memoryview(bytearray(1000)))

    @pytest.mark.parametrize("length", [True, False], ids=["with a length", "in chunks"])
    def test_a_longer_body_than_was_asked_for_is_not(self, server: FaultServer, length: bool) -> None:
        def whole(exchange: Exchange) -> None:
            headers = {} if length else {"Content-Length": None, "Connection": "close"}
            exchange.head(200, {"Content-Length": str(len(DATA))} | headers)
            with contextlib.suppress(OSError):
                exchange.send(DATA)
            exchange.hang_up()

        server.choose = lambda request: whole
        with store_of(server) as store, pytest.raises(ReadError, match="the server ignored Range"):
            store.open(URL)
        assert len(server.requests) == 1

    def test_a_200_that_says_which_bytes_it_sends_is_taken_at_its_word(self, server: FaultServer) -> None:
        def said(exchange: Exchange) -> None:
            first, last = exchange.request.span or (0, 0)
            exchange.head(200, {"Content-Range": f"bytes {first}-{last}/{len(DATA)}"})
            exchange.send(exchange.asked)

        assert read_after(server, said) == DATA[AT : AT + SIZE]


class TestCredentialsAndRegions:
    def test_expired_credentials_are_read_anew_once(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOLD")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        buffer = bytearray(10)
        with store_of(server, None, retries=0) as store:
            source = store.open(URL)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
            server.script(refuse(400, "ExpiredToken"))
            source.read_into(AT, memoryview(buffer))
        assert buffer == DATA[AT : AT + 10]
        keys = [request.headers["Authorization"].split("/")[0].rpartition("=")[2] for request in server.requests]
        assert keys == ["AKIDOLD", "AKIDOLD", "AKIDNEW"]

    def test_credentials_that_stay_expired_are_an_error(self, server: FaultServer) -> None:
        with pytest.raises(CredentialsError, match=r"have expired \(HTTP 400 ExpiredToken.*2 attempts"):
            read_after(server, *[refuse(400, "ExpiredToken")] * 5)
        assert len(server.requests) == 3

    def test_a_request_to_the_wrong_region_is_made_again_in_the_right_one(self, server: FaultServer) -> None:
        detail = "<Region>eu-west-1</Region>"
        server.script(refuse(400, "AuthorizationHeaderMalformed", detail=detail))
        with store_of(server, retries=0) as store:
            source = store.open(URL)
            source.read_into(AT, memoryview(bytearray(10)))
        regions = [request.headers["Authorization"].split("/")[2] for request in server.requests]
        assert regions == ["us-east-1", "eu-west-1", "eu-west-1"]


class TestInterrupted:
    """An interrupt ends a read, whose own end would be much further away than these tests have patience for."""

    def interrupted(
        self, endpoint: str, waiting: Callable[[], object], *, opening: bool = False, then: Callable[[], object] = bool
    ) -> None:
        """Interrupt a read, or an opening, when `waiting` returns."""
        ended: list[BaseException] = []

        def read() -> None:
            try:
                (source or store.open(URL)).read_into(AT, memoryview(bytearray(SIZE)))
            except BaseException as error:
                ended.append(error)

        with store_of(endpoint, timeout=FAR) as store:
            source = None if opening else store.open(URL)
            then()
            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            waiting()
            (source or store).interrupt()
            thread.join(PATIENCE)
            assert [type(error) for error in ended] == [InterruptedReadError]

    @pytest.mark.parametrize(
        "fault",
        [stall_before_headers(), stall_after(0), stall_after(300_000)],
        ids=["before its headers", "after its headers", "in its body"],
    )
    @pytest.mark.parametrize("opening", [False, True])
    def test_while_the_server_stalls(self, server: FaultServer, fault: Fault, opening: bool) -> None:
        self.interrupted(
            server.endpoint,
            lambda: server.stalled.acquire(timeout=PATIENCE),
            opening=opening,
            then=lambda: server.script(fault),
        )

    def test_over_tls_while_the_server_stalls(self, monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.certificate))
        with FaultServer(certificate) as server:
            server.put("bucket", "model.safetensors", DATA)
            stall = stall_after(300_000)
            self.interrupted(
                server.endpoint,
                lambda: server.stalled.acquire(timeout=PATIENCE),
                then=lambda: server.script(stall),
            )

    def test_while_it_waits_to_try_again(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        # The longest wait, and no luck.
        monkeypatch.setattr(random, "uniform", lambda low, high: FAR)
        refused = threading.Event()

        def refuse_once(exchange: Exchange) -> None:
            exchange.refuse(503, "SlowDown")
            refused.set()

        self.interrupted(server.endpoint, lambda: refused.wait(PATIENCE), then=lambda: server.script(refuse_once))

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_while_nothing_answers_a_connection(self, scheme: str) -> None:
        # Accepted by the system, but by no server: over TLS the handshake waits.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            arrived: list[socket.socket] = []
            port = listener.getsockname()[1]
            self.interrupted(f"{scheme}://127.0.0.1:{port}", lambda: arrived.append(listener.accept()[0]), opening=True)
            arrived[0].close()

    def test_while_a_connection_is_not_even_established(self) -> None:
        # A full queue of connections that nobody accepts: the system drops what else asks to come in.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
            port = listener.getsockname()[1]
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            asking = len(_connecting(port))

            def until_it_asks() -> None:
                deadline = time.monotonic() + PATIENCE
                while len(_connecting(port)) == asking and time.monotonic() < deadline:
                    time.sleep(0.005)
                assert len(_connecting(port)) > asking

            self.interrupted(f"http://127.0.0.1:{port}", until_it_asks, opening=True)

    def test_while_a_provider_of_credentials_takes_its_time(self, server: FaultServer) -> None:
        asked, answer = threading.Event(), threading.Event()
        made: list[Access] = []

        def slow(*arguments: Any) -> Access:
            asked.set()
            assert answer.wait(PATIENCE)
            access = make_access(*arguments)
            made.append(replace(access, transport=Closing(access.transport, closed)))
            return made[0]

        closed: list[str] = []
        ended: list[BaseException] = []

        def open_it() -> None:
            try:
                store.open(URL)
            except BaseException as error:
                ended.append(error)

        with store_of(server, make=slow) as store:
            opener = threading.Thread(target=open_it, daemon=True)
            opener.start()
            assert asked.wait(PATIENCE)
            closer = threading.Thread(target=store.close, daemon=True)
            closer.start()
            closer.join(PATIENCE / 2)
            waited = closer.is_alive()
            answer.set()
            opener.join(PATIENCE)
        assert not waited, "the streamer was not closed before the provider had answered"
        assert [type(error) for error in ended] == [InterruptedReadError]
        assert (len(made), closed, server.requests) == (1, ["transport"], [])

    def test_every_reader_of_a_store_at_once(self, server: FaultServer) -> None:
        ended: list[BaseException] = []

        def read() -> None:
            try:
                source.read_into(AT, memoryview(bytearray(SIZE)))
            except BaseException as error:
                ended.append(error)

        with store_of(server, timeout=FAR) as store:
            source = store.open(URL)
            server.choose = lambda request: stall_after(1000)
            threads = [threading.Thread(target=read, daemon=True) for _ in range(8)]
            for thread in threads:
                thread.start()
            for _ in threads:
                assert server.stalled.acquire(timeout=PATIENCE)
            store.interrupt()
            for thread in threads:
                thread.join(PATIENCE)
            assert [type(error) for error in ended] == [InterruptedReadError] * 8

    def test_one_source_and_not_its_neighbour(self, server: FaultServer) -> None:
        buffer = bytearray(SIZE)
        with store_of(server) as store:
            first, second = store.open(URL), store.open(URL)
            first.interrupt()
            with pytest.raises(InterruptedReadError):
                first.read_into(AT, memoryview(buffer))
            second.read_into(AT, memoryview(buffer))
        assert buffer == DATA[AT : AT + SIZE]
        assert server.connections == 1


def _connecting(port: int) -> list[str]:
    """Sockets of this machine that ask for a connection to a port of 127.0.0.1 and have no answer yet."""
    sent = "02"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[2] == f"0100007F:{port:04X}" and line.split()[3] == sent]
