"""The answer to a range request, held against what was asked."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from runai_model_streamer.errors import ReadError, SourceChangedError
from runai_model_streamer.io.http.transport import Reply
from runai_model_streamer.ranges import ByteRange

RELOAD: Final = "Load it again when nothing writes to it any more."

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
"""No object has more digits of bytes, and Python reads no number of thousands of them."""


class Answer(NamedTuple):
    """What identifies an answer to those who run the store."""

    status: int | None = None
    code: str = ""
    request_id: str = ""

    @classmethod
    def to(cls, reply: Reply) -> "Answer":
        """From a reply that is no refusal: it has no code."""
        return cls(reply.status, "", reply.headers.get("x-amz-request-id", ""))

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> "Answer":
        """From botocore's form of a response, good or bad."""
        about = response.get("ResponseMetadata", {})
        status = about.get("HTTPStatusCode")
        code = str(response.get("Error", {}).get("Code") or "")
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


def total_size(reply: Reply) -> int:
    """Bytes of the whole object, from the answer to a range request.

    Raises:
        AnswerError: the answer is not to the range asked for, or does not say.
    """
    total = _content_range(reply)[2]
    if total is None:
        raise _unfit(reply, "the store does not say how long the object is")
    return total


def verify(reply: Reply, span: ByteRange, size: int, etag: str | None = None) -> None:
    """Hold an answer against the range that was asked for, and the object's size and ETag when it was opened.

    Raises:
        AnswerError: it is another range, another length, or another object.
    """
    first, last, total = _content_range(reply)
    answer = Answer.to(reply)
    if total not in (None, size):
        raise changed(f"the object has {total} bytes, and had {size} when it was opened", answer)
    if etag is not None and reply.headers.get("etag", etag) != etag:
        raise changed("the object is no longer the one that was opened (its ETag differs)", answer)
    length = reply.headers.get("content-length", str(span.size))
    if (first, last, length) != (span.start, span.end - 1, str(span.size)):
        sent = f"the store sent bytes {first}-{last + 1} in a body of {length} bytes"
        raise _unfit(reply, f"asked for {span}, {sent}")


def changed(summary: str, answer: Answer) -> AnswerError:
    """The object was overwritten since it was opened."""
    return AnswerError(SourceChangedError, summary, RELOAD, answer)


def _content_range(reply: Reply) -> tuple[int, int, int | None]:
    """First and last byte, and the object's size where it is said."""
    if reply.headers.get("content-type", "").startswith("text/html") and reply.status != 206:
        remedy = "It is the port of a web console, perhaps, or a proxy that wants a login: check the endpoint."
        raise AnswerError(ReadError, "the server sent a web page, not the object", remedy, Answer.to(reply))
    if reply.status != 206:
        remedy = "Use an endpoint that serves HTTP range requests; a cache or proxy in between may have dropped it."
        raise AnswerError(ReadError, "the server ignored Range and sent the whole object", remedy, Answer.to(reply))
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
    if match is None:
        raise _unfit(reply, "the store does not say which bytes it sends")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def _unfit(reply: Reply, summary: str) -> AnswerError:
    remedy = "Check the endpoint, and any cache or proxy in between: what it sends cannot be trusted."
    return AnswerError(ReadError, summary, remedy, Answer.to(reply))
