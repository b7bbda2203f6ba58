"""What goes wrong on the way to a server is the same `Failure` with each transport."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.config import S3Transport
from runai_model_streamer.io.http.failures import RETRIED, UNREACHABLE, Failure, TransportError
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.transport import Reply, SignedRequest, Transport, headers_in
from runai_model_streamer.ranges import ByteRange
from tests.io.transports import TIMEOUT, store_of
from tests.servers import (
    Certificate,
    Fault,
    FaultServer,
    cut_short,
    drip,
    dripping_headers,
    endless_continue,
    garbage,
    reset_after,
    reset_at_once,
    stall_after,
    stall_before_headers,
)

pytestmark = pytest.mark.usefixtures("aws_files", "transport")

DATA = bytes(range(256)) * 1000
SPAN = ByteRange(1000, 101_000)
SHORT = 0.4
"""Seconds."""


def ask(transport: Transport, url: str) -> Reply:
    request = SignedRequest(url, {}, time.time())
    with Flights().flight() as flight:
        return transport.get(request, SPAN, None, memoryview(bytearray(SPAN.size)), flight)


def failure(reply: Reply) -> Failure:
    with pytest.raises(TransportError) as caught:
        reply.check()
    return caught.value.failure


@contextlib.contextmanager
def transport_of(endpoint: str, timeout: float = SHORT) -> Iterator[Transport]:
    with store_of(endpoint, timeout=timeout) as store:
        yield store.access().transport


@contextlib.contextmanager
def full_queue() -> Iterator[int]:
    """A port of 127.0.0.1 that drops who asks to come in, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


class TestOneMeaning:
    @pytest.mark.parametrize(
        ("name", "fault", "found"),
        [
            ("reset in place of an answer", reset_at_once(), Failure.CLOSED),
            ("reset in place of the body", reset_after(0), Failure.CLOSED),
            ("no answer", stall_before_headers(), Failure.STALLED),
            ("no more body", stall_after(100), Failure.STALLED),
            ("100 Continue without end", endless_continue(0.05), Failure.STALLED),
            ("headers without end", dripping_headers(0.05), Failure.STALLED),
            ("slow body", drip(10, 0.05), Failure.SLOW),
            ("short body", cut_short(100), Failure.LENGTH),
            ("no HTTP", garbage(), Failure.NOT_HTTP),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_of_what_a_server_does(self, server: FaultServer, name: str, fault: Fault, found: Failure) -> None:
        server.choose = lambda request: fault
        # On a busy machine a right answer, too, may be late.
        timeout = {Failure.STALLED: SHORT, Failure.SLOW: 2.0}.get(found, TIMEOUT)
        with transport_of(server.endpoint, timeout) as transport:
            assert failure(ask(transport, f"{server.endpoint}/bucket/model.safetensors")) is found

    def test_of_a_port_that_nobody_listens_at(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with transport_of(url) as transport:
            assert failure(ask(transport, f"{url}/bucket/key")) is Failure.CONNECT

    def test_of_a_name_that_is_not_found(self) -> None:
        with transport_of("http://store.invalid") as transport:
            assert failure(ask(transport, "http://store.invalid/bucket/key")) is Failure.NAME

    def test_of_packets_that_are_dropped(self) -> None:
        with full_queue() as port, transport_of(f"http://127.0.0.1:{port}") as transport:
            assert failure(ask(transport, f"http://127.0.0.1:{port}/bucket/key")) is Failure.CONNECT_TIMEOUT

    def test_of_a_proxy_that_nobody_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free.getsockname()[1]}")
        with transport_of("http://store.invalid") as transport:
            assert failure(ask(transport, "http://store.invalid/bucket/key")) is Failure.PROXY

    def test_of_a_certificate_that_is_not_trusted(self, certificate: Certificate) -> None:
        with FaultServer(certificate) as server, transport_of(server.endpoint, 10.0) as transport:
            assert failure(ask(transport, f"{server.endpoint}/bucket/key")) is Failure.UNTRUSTED

    def test_of_a_port_without_tls(self, server: FaultServer) -> None:
        url = f"https://127.0.0.1:{server.port}"
        with transport_of(url, 10.0) as transport:
            assert failure(ask(transport, f"{url}/bucket/key")) is Failure.NOT_TLS

    def test_of_a_file_of_authorities_that_cannot_be_read(
        self, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
        with FaultServer(certificate) as server, transport_of(server.endpoint, 10.0) as transport:
            assert failure(ask(transport, f"{server.endpoint}/bucket/key")) is Failure.NO_AUTHORITIES

    def test_with_the_host_that_was_asked(self, server: FaultServer) -> None:
        server.choose = lambda request: reset_after(100)
        with transport_of(server.endpoint, TIMEOUT) as transport:
            reply = ask(transport, f"{server.endpoint}/bucket/model.safetensors")
        with pytest.raises(TransportError) as caught:
            reply.check()
        assert caught.value.host == f"127.0.0.1:{server.port}"


def test_what_is_unreachable_is_tried_again() -> None:
    assert set(UNREACHABLE) < set(RETRIED) < set(Failure)


class TestAfterAConnectionThatWasNotMadeInTime:
    def test_the_next_request_connects_anew(self, server: FaultServer) -> None:
        with full_queue() as port, transport_of(server.endpoint, 2.0) as transport:
            for _ in range(2):
                assert failure(ask(transport, f"http://127.0.0.1:{port}/bucket/key")) is Failure.CONNECT_TIMEOUT
            assert ask(transport, f"{server.endpoint}/bucket/model.safetensors").landed == SPAN.size

    def test_the_number_of_its_socket_is_not_taken_for_a_connection(self, server: FaultServer) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, transport_of(server.endpoint, 2.0) as transport, contextlib.ExitStack() as stack:
            with full_queue() as port:
                ask(transport, f"http://127.0.0.1:{port}/bucket/key")
            # Every number that was free for the connection is another socket's now.
            taken = [stack.enter_context(socket.socket(fileno=os.dup(ours.fileno()))) for _ in range(20)]
            with Flights().flight() as flight:
                request = SignedRequest(f"{server.endpoint}/bucket/model.safetensors", {}, time.time())
                reply = transport.get(request, SPAN, None, memoryview(bytearray(SPAN.size)), flight)
                flight.stop()
            assert reply.landed == SPAN.size
            taken[0].sendall(b"still open")
            assert theirs.recv(100) == b"still open"


class TestHeaders:
    """Values come from whoever may set an object's metadata."""

    @pytest.mark.parametrize("between", ["\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\0", "\xa0"])
    def test_only_a_line_feed_ends_a_line(self, between: str) -> None:
        head = f'HTTP/1.1 206 P\r\nx-amz-meta-note: a{between}etag: "made-up"\r\nETag: "e1"\r\n\r\n'
        assert headers_in(head)["etag"] == '"e1"'

    def test_a_line_that_begins_with_a_blank_goes_on_with_the_one_before(self) -> None:
        head = 'HTTP/1.1 206 P\r\nx-amz-meta-note: a\r\n etag: "made-up"\r\n\tand: on\r\n\r\n'
        assert headers_in(head) == {"x-amz-meta-note": 'a etag: "made-up" and: on'}

    def test_what_is_no_name_begins_no_header(self) -> None:
        assert headers_in("HTTP/1.1 206 P\r\netag : a\r\n: b\r\nno colon\r\n\r\n") == {}

    def test_one_that_came_twice_has_both_values_unless_they_are_the_same(self) -> None:
        head = "HTTP/1.1 206 P\r\nA: 1\r\na: 2\r\nB: 1\r\nb: 1\r\n\r\n"
        assert headers_in(head) == {"a": "1, 2", "b": "1"}

    def test_those_of_any_head_are_the_same_whether_read_at_once_or_line_by_line(self) -> None:
        made = random.Random(5)
        odd = ["a", "B", ":", " ", "\t", "\r", "\n", "\r\n", ": ", "\x85", "\x0b", "é", "etag", '"', "-", ""]
        plain = ["\r\na: ", "\r\nB: ", "\r\nE-tag: ", "\r\nc:", "x", "y", ": ", " ", "\xa0", "é"]
        for number in range(5000):
            pieces = plain if number % 2 else odd
            head = "HTTP/1.1 206 P" + "".join(made.choices(pieces, k=made.randrange(20)))
            # A blank at its end makes all of it be read line by line.
            assert headers_in(head) | {"z": "z"} == headers_in(head + "\r\nZ: z ")

    @pytest.mark.parametrize("between", [b"\x85", b"\x0b", b"\x1c", b"\r", b"\r\n "])
    def test_both_transports_read_them_so(self, server: FaultServer, transport: S3Transport, between: bytes) -> None:
        head = b"HTTP/1.1 206 P\r\nContent-Length: 100000\r\nContent-Range: bytes 1000-100999/256000\r\n"
        note = b"x-amz-meta-note: a" + between + b'etag: "made-up"\r\n\r\n'
        server.choose = lambda request: lambda exchange: exchange.send(head + note + exchange.asked)
        with transport_of(server.endpoint, 10.0) as moving:
            reply = ask(moving, f"{server.endpoint}/bucket/model.safetensors")
        assert "etag" not in reply.headers
        assert "made-up" in reply.headers["x-amz-meta-note"]
        assert reply.landed == SPAN.size
