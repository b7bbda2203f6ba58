"""The answer to a range request: held against what was asked, and read straight into a buffer."""

import http.client
import io
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from runai_model_streamer.errors import ReadError, SourceChangedError
from runai_model_streamer.io.ranges import ByteRange

RELOAD: Final = "Load it again when nothing writes to it any more."

_BLOCK: Final = 256 << 10
"""Bytes copied at a time where the socket is out of reach."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Answer(NamedTuple):
    """What identifies an answer to those who run the store."""

    status: int | None = None
    code: str = ""
    request_id: str = ""

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> "Answer":
        """From botocore's form of a response, good or bad."""
        about = response.get("ResponseMetadata", {})
        status = about.get("HTTPStatusCode")
        code = str(response.get("Error", {}).get("Code", ""))
        # Without a body botocore makes the status the code.
        return cls(status, "" if code == str(status) else code, str(about.get("RequestId", "")))

    def __str__(self) -> str:
        request_id = f", request id {self.request_id}" if self.request_id else ""
        return f"HTTP {self.status} {self.code}".rstrip() + request_id


class AnswerError(Exception):
    """An answer that does not fit the question: never data, whatever it carries, and asking again does not help."""

    def __init__(self, kind: type[ReadError], summary: str, remedy: str, answer: Answer | None = None) -> None:
        super().__init__(summary)
        self.kind = kind
        self.remedy = remedy
        self.answer = answer


class BodyLengthError(Exception):
    """A body that ended early, or not where it should have."""

    def __init__(self, came: int, asked: int) -> None:
        super().__init__(f"the answer's body had {came} bytes instead of {asked}")


@contextmanager
def closed_on_error(body: Any) -> Iterator[None]:
    """Close a body that will not be read: left open, it would keep its connection."""
    try:
        yield
    except BaseException:
        body.close()
        raise


def total_size(response: Mapping[str, Any]) -> int:
    """Bytes of the whole object, from the answer to a range request.

    Raises:
        AnswerError: the answer is not to the range asked for, or does not say.
    """
    total = _content_range(response)[2]
    if total is None:
        raise _unfit(response, "the store does not say how long the object is")
    return total


def verify(response: Mapping[str, Any], span: ByteRange, size: int, etag: str | None = None) -> None:
    """Hold an answer against the range that was asked for, and the object's size and ETag when it was opened.

    Raises:
        AnswerError: it is another range, another length, or another object.
    """
    first, last, total = _content_range(response)
    answer = Answer.of(response)
    if total not in (None, size):
        raise changed(f"the object has {total} bytes, and had {size} when it was opened", answer)
    if etag is not None and response.get("ETag", etag) != etag:
        raise changed("the object is no longer the one that was opened (its ETag differs)", answer)
    length = response.get("ContentLength", span.size)
    if (first, last, length) != (span.start, span.end - 1, span.size):
        sent = f"the store sent bytes {first}-{last + 1} in a body of {length} bytes"
        raise _unfit(response, f"asked for {span}, {sent}")


def changed(summary: str, answer: Answer) -> AnswerError:
    """The object was overwritten since it was opened."""
    return AnswerError(SourceChangedError, summary, RELOAD, answer)


class Received:
    """How far a body came."""

    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.count = count
        self._failure = failure

    def check(self) -> None:
        """Raise what kept the rest from coming, if anything did."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                # The traceback holds this frame, and the frame would hold the exception.
                del failure


def receive(body: Any, view: memoryview) -> Received:
    """Fill `view` from a response's body: the seam to other ways of transport.

    When all is there, the connection is back in the pool; otherwise it is closed.
    """
    landed = 0
    complete = False
    try:
        direct = _direct(body, len(view))
        if direct is not None:
            raw, answer, buffered, sock = direct
            # The headers were read through a buffer, which may hold the first bytes of the body.
            ahead = min(len(buffered.peek()), len(view))
            landed = buffered.readinto1(view[:ahead]) if ahead else 0
            while landed < len(view):
                count = sock.recv_into(view[landed:])
                if not count:
                    return Received(landed, BodyLengthError(landed, len(view)))
                landed += count
            answer.close()
            raw.release_conn()
        else:
            while landed < len(view):
                block = body.read(min(_BLOCK, len(view) - landed))
                if not block:
                    return Received(landed, BodyLengthError(landed, len(view)))
                view[landed : landed + len(block)] = block
                landed += len(block)
            # Where the length was not announced, the end has to be read before the connection is free again.
            if body.read(1):
                return Received(0, BodyLengthError(landed + 1, len(view)))
        complete = True
    except Exception as error:
        return Received(landed, error)
    finally:
        if not complete:
            body.close()
    return Received(landed)


def _direct(body: Any, length: int) -> tuple[Any, http.client.HTTPResponse, io.BufferedReader, socket.socket] | None:
    # recv_into on the socket counts every byte that landed before an error, and over TLS takes a quarter less CPU
    # than the response's own readinto.
    raw = getattr(body, "_raw_stream", None)
    answer = getattr(raw, "_fp", None)
    buffered = getattr(answer, "fp", None)
    sock = getattr(getattr(raw, "connection", None), "sock", None)
    if (
        isinstance(answer, http.client.HTTPResponse)
        and isinstance(buffered, io.BufferedReader)
        and isinstance(sock, socket.socket)
        and answer.length == length
    ):
        return raw, answer, buffered, sock
    return None


def _content_range(response: Mapping[str, Any]) -> tuple[int, int, int | None]:
    """First and last byte, and the object's size where it is said."""
    answer = Answer.of(response)
    if answer.status != 206:
        remedy = "Use an endpoint that serves HTTP range requests; a cache or proxy in between may have dropped it."
        raise AnswerError(ReadError, "the server ignored Range and sent the whole object", remedy, answer)
    match = _CONTENT_RANGE.fullmatch(response.get("ContentRange", ""))
    if match is None:
        raise _unfit(response, "the store does not say which bytes it sends")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def _unfit(response: Mapping[str, Any], summary: str) -> AnswerError:
    remedy = "Check the endpoint, and any cache or proxy in between: what it sends cannot be trusted."
    return AnswerError(ReadError, summary, remedy, Answer.of(response))
