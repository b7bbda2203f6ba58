"""The transport without libcurl: reads botocore's (urllib3's) connections straight into the buffer."""

import http.client
import io
import socket
from typing import Any, Final

from typing_extensions import override

from runai_model_streamer.io.http.failures import TransportError, wrong_length
from runai_model_streamer.io.http.transport import (
    TEXT_LIMIT,
    Cancellation,
    Reply,
    SignedRequest,
    Transport,
    Window,
    headers_of,
    is_wanted,
    sent_headers,
)
from runai_model_streamer.io.s3.errors.boto3_failures import failure_of
from runai_model_streamer.ranges import ByteRange

_BLOCK: Final = 256 << 10
"""Bytes of one copy, where the socket cannot be read directly."""


class Boto3Transport(Transport):
    """A `Transport` over the connections of a botocore client, which closes them."""

    def __init__(self, client: Any, timeout: float) -> None:
        import botocore

        self._session = client._endpoint.http_session  # noqa: SLF001 - there is no public way
        self._timeout = timeout
        self.name = f"boto3 (botocore {botocore.__version__})"

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        from botocore.awsrequest import AWSPreparedRequest

        # `cancellation` is the thread's current flight, which the connection finds itself (`connections`).
        headers: Any = sent_headers(request, span, etag)
        try:
            # Do not put botocore's request into a variable: its repr shows a user in the URL.
            raw = self._session.send(AWSPreparedRequest("GET", request.url, headers, None, stream_output=True)).raw
        except Exception as error:
            return Reply(failure=_failure(error, request.url))
        reply = Reply(raw.status, headers_of(raw.headers.items()))
        if raw.status >= 300:
            _quote(raw, Window(self._timeout), reply)
        elif is_wanted(reply, span, len(view)):
            cancellation.landed = lambda: reply.landed
            try:
                _land(raw, view, Window(self._timeout), reply)
            except Exception as error:
                reply.fail(_failure(error, request.url))
        else:
            raw.close()
        return reply

    @override
    def close(self) -> None:
        """Do nothing: the client's owner closes it."""


def _failure(error: Exception, url: str) -> TransportError:
    """Turn an exception into a TransportError. Raise it if it is not one of the network's: that is a bug."""
    failure = failure_of(error)
    if failure is None:
        raise error
    if failure is not error:
        failure.__cause__ = error
    failure.name_host(url)
    return failure


def _land(raw: Any, view: memoryview, window: Window, reply: Reply) -> None:
    """Fill `view` from a body. A complete read returns the connection to the pool; any other closes it."""
    complete = False
    try:
        direct = _direct(raw)
        if direct is not None:
            answer, buffered, sock = direct
            length = answer.length or 0
            # The headers were read through a buffer that may also hold the first bytes of the body.
            ahead = min(len(buffered.peek()) if length else 0, length)
            reply.landed = buffered.readinto1(view[:ahead]) if ahead else 0
            while reply.landed < length:
                count = sock.recv_into(view[reply.landed : length])
                if not count:
                    raise wrong_length(reply.landed, length)
                reply.landed += count
                window.check(reply.landed)
            answer.close()
        else:
            # Without a length, only reading the end frees the connection.
            while block := read_some(raw, min(_BLOCK, len(view) - reply.landed) or 1):
                if reply.landed + len(block) > len(view):
                    reply.landed, reply.overrun = 0, True
                    raise wrong_length(len(view) + 1, len(view))
                view[reply.landed : reply.landed + len(block)] = block
                reply.landed += len(block)
                window.check(reply.landed)
        raw.release_conn()
        complete = True
    finally:
        if not complete:
            raw.close()


def _quote(raw: Any, window: Window, reply: Reply) -> None:
    """Keep the beginning of a body that is not the range. Keep the connection only if that was all of it."""
    text = bytearray()
    try:
        while len(text) < TEXT_LIMIT and (block := read_some(raw, TEXT_LIMIT - len(text))):
            text += block
            window.check(len(text))
    except Exception:
        # The status is known, and is enough.
        pass
    reply.text = bytes(text)
    answer = getattr(raw, "_fp", None)
    if isinstance(answer, http.client.HTTPResponse) and answer.length == 0:
        answer.close()
    if isinstance(answer, http.client.HTTPResponse) and answer.isclosed():
        raw.release_conn()
    else:
        raw.close()


def read_some(raw: Any, length: int) -> bytes:
    """Return at most `length` bytes from one read of the socket, so that the caller can check the time in between."""
    answer = getattr(raw, "_fp", None)
    block: bytes = answer.read1(length) if isinstance(answer, http.client.HTTPResponse) else raw.read(length)
    return block


def _direct(raw: Any) -> tuple[http.client.HTTPResponse, io.BufferedReader, socket.socket] | None:
    # recv_into on the socket counts every byte that landed before an error. Over TLS it takes a quarter less CPU than
    # the response's own readinto.
    answer = getattr(raw, "_fp", None)
    buffered = getattr(answer, "fp", None)
    sock = getattr(getattr(raw, "connection", None), "sock", None)
    if (
        isinstance(answer, http.client.HTTPResponse)
        and isinstance(buffered, io.BufferedReader)
        and isinstance(sock, socket.socket)
        and answer.length is not None
    ):
        return answer, buffered, sock
    return None
