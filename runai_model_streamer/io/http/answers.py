"""Checks that the answer to a range request is what was asked for."""

import re
from typing import Final, NamedTuple

from runai_model_streamer.errors import ReadError, SourceChangedError
from runai_model_streamer.io.http.transport import Reply
from runai_model_streamer.ranges import ByteRange

RELOAD: Final = "Load it again once nothing writes to it."

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_LENGTH: Final = re.compile(r"\d{1,19}", re.ASCII)
"""Every object's size fits into 19 digits. Python refuses to parse a number with thousands of digits."""


class Answer(NamedTuple):
    """Identifies an answer to the operator of the server."""

    status: int | None = None
    code: str = ""
    """The store's error code, such as `NoSuchKey`; "" if it did not refuse."""
    request_id: str = ""

    @classmethod
    def to(cls, reply: Reply) -> "Answer":
        """Make one from a reply that is not a refusal, and so has no code."""
        found = (value for name, value in reply.headers.items() if name.endswith("request-id"))
        return cls(reply.status, "", next(found, ""))

    def __str__(self) -> str:
        request_id = f", request id {self.request_id}" if self.request_id else ""
        return printable(f"HTTP {self.status} {self.code}".rstrip() + request_id)


def printable(text: str) -> str:
    r"""Escape what a terminal would take for a command: `\x1b`."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class AnswerError(Exception):
    """An answer that does not fit the request. Its body is never used as data, and a retry does not help."""

    def __init__(self, kind: type[ReadError], summary: str, remedy: str, answer: Answer | None = None) -> None:
        super().__init__(summary)
        self.kind = kind
        self.remedy = remedy
        self.answer = answer


class Version(NamedTuple):
    """Tells an object from an older or newer one of the same name."""

    etag: str | None = None
    modified: str | None = None
    """Last-Modified; compared only if there is no ETag."""

    @classmethod
    def of(cls, reply: Reply) -> "Version":
        """Read the version from a reply's headers."""
        return cls(reply.headers.get("etag"), reply.headers.get("last-modified"))


def total_size(reply: Reply, span: ByteRange) -> int:
    """Return the object's size in bytes, from the answer to a range request.

    Raises:
        AnswerError: the answer is to another range, or does not give the size.
        TransportError: it does not give the size, and its body is incomplete.
    """
    total = _received(reply, span)[2]
    if total is None:
        raise _unfit(reply, "the store does not say how long the object is")
    return total


def verify(reply: Reply, span: ByteRange, size: int, version: Version) -> None:
    """Compare an answer with the range asked for, and with the object's size and version when it was opened.

    Raises:
        AnswerError: it is another range, another length, or another object.
        TransportError: it does not say which, and its body is incomplete.
    """
    first, last, total = _received(reply, span)
    if total not in (None, size):
        raise changed(f"the object has {total} bytes, and had {size} when it was opened", Answer.to(reply))
    etag = reply.headers.get("etag")
    if version.etag is not None and etag is None:
        # An answer carries the object's ETag (RFC 9110, 15.3.7). Without it the answer may be of any version.
        raise _unfit(reply, "the object had an ETag when it was opened, and now the answer has none")
    if version.etag not in (None, etag):
        raise changed("the object is no longer the one that was opened (its ETag differs)", Answer.to(reply))
    modified = reply.headers.get("last-modified")
    if version.etag is None and None not in (version.modified, modified) and version.modified != modified:
        changes = "the object is no longer the one that was opened (its Last-Modified differs)"
        raise changed(changes, Answer.to(reply))
    wanted = str(span.end - span.start)
    length = reply.headers.get("content-length", wanted)
    if (first, last, length) != (span.start, span.end - 1, wanted):
        sent = f"the store sent bytes {first}-{last + 1} in a body of {length} bytes"
        raise _unfit(reply, f"asked for {span}, {sent}")


def changed(summary: str, answer: Answer) -> AnswerError:
    """Make the error for an object that was overwritten after it was opened."""
    return AnswerError(SourceChangedError, summary, RELOAD, answer)


def _received(reply: Reply, span: ByteRange) -> tuple[int, int, int | None]:
    """Return the first and last byte, and the object's size if the answer gives it."""
    if reply.status != 206 and reply.headers.get("content-type", "").startswith("text/html"):
        remedy = "This may be the port of a web console, or a proxy that wants a login: check the endpoint."
        raise AnswerError(ReadError, "the server sent a web page, not the object", remedy, Answer.to(reply))
    if reply.status != 206 and "content-range" not in reply.headers:
        length = _whole_length(reply, span)
        return 0, length - 1, length
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
    if match is None:
        raise _unfit(reply, "the store does not say which bytes it sends")
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def _whole_length(reply: Reply, span: ByteRange) -> int:
    """Return the length of a 200 that brings the whole object. HTTP allows it for a range that covers the object."""
    said = reply.headers.get("content-length", "")
    if not said and not reply.overrun:
        reply.check()
    length = int(said) if _LENGTH.fullmatch(said) else reply.landed
    if span.start or reply.overrun or length > span.size:
        remedy = "Use an endpoint that serves HTTP range requests. A cache or proxy in between may drop the header."
        raise AnswerError(ReadError, "the server ignored Range and sent the whole object", remedy, Answer.to(reply))
    return length


def _unfit(reply: Reply, summary: str) -> AnswerError:
    remedy = "Check the endpoint, and any cache or proxy in between: this answer cannot be trusted."
    return AnswerError(ReadError, summary, remedy, Answer.to(reply))
