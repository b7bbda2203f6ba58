"""The interface of a transport, which brings the bytes of an HTTP range into a buffer.

A transport sends a signed request and reports the reply (`Transport.get`). It looks at an answer only to keep anything
but the range out of the caller's buffer. The caller decides what the answer means.
"""

import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.ranges import ByteRange

TEXT_LIMIT: Final = 64 << 10
"""Maximum bytes kept of a body that is not the range: an error's text is shorter, and a whole object is not wanted."""

MIN_SPEED: Final = 1024
"""Minimum bytes per second over each span of the timeout, once an answer has begun. A slower connection is as good as
dead, and a new one may do better. A slow network that works is far above this."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_FRESH: Final = 300.0
"""Seconds for which a signature is used. Stores accept it for 15 minutes by their own clocks."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A signed GET of a whole object. `Range` and `If-Match` are not signed, so that it serves every range."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    made: float
    """Seconds since the epoch. This clock runs while the machine sleeps, as the store's does."""
    ranged: bool = True
    """Whether a range is asked for; if not, all there is, such as a page of a listing."""

    @property
    def fresh(self) -> bool:
        """Whether the signature may still be used."""
        return abs(time.time() - self.made) < _FRESH


class Reply:
    """The answer to one request, complete or not."""

    def __init__(
        self,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        landed: int = 0,
        failure: TransportError | None = None,
    ) -> None:
        self.status = status
        """None if no answer began."""
        self.headers: Mapping[str, str] = headers or {}
        """By names in lower case."""
        self.landed = landed
        """Bytes of the range that are in the buffer, from its start."""
        self.text = b""
        """The beginning of any other body."""
        self.overrun = False
        """The body is longer than the range, or its header says so. None of it counts."""
        self._failure = failure

    def fail(self, failure: TransportError) -> None:
        """Record why the rest did not arrive."""
        self._failure = failure

    @property
    def failure(self) -> TransportError | None:
        """Why the rest did not arrive; None if it did, or once `check` has raised it."""
        return self._failure

    def check(self) -> None:
        """Raise the failure that kept the rest from arriving, if there was one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                # The traceback holds this frame. If the frame held the exception, that would be a reference cycle.
                del failure


class Cancellation(Protocol):
    """The switch that cuts one request short; see `flights.Flight`."""

    connect_seconds: float
    """Set by the transport: seconds in which the request's connection was made."""

    landed: Callable[[], int] | None
    """Set by the transport: returns how many bytes of the answer's body have landed so far. From any thread."""

    elsewhere: bool
    """Set by the transport: the request was refused, but others of its host do serve, and the next go there."""

    @property
    def cut(self) -> bool:
        """Whether the request must end."""
        ...

    def watch(self, descriptor: int) -> None:
        """Shut down this socket when the request is cut; at once if it already was."""
        ...

    def stop(self) -> None:
        """Cut the request. From any thread."""
        ...

    def watch_another(self, descriptor: int) -> None:
        """Like `watch`, but in addition to the earlier ones: several addresses of a host are tried at once."""
        ...


class Transport(Protocol):
    """Sends signed requests, and keeps connections open between them. Thread safe."""

    name: str
    """For logs: the library that moves the bytes, with its version."""

    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        """Request a range of an object, and write its bytes into `view`.

        A body counts as landed if its Content-Range begins where `span` does. A 200 without Content-Range counts if
        `span` begins at byte 0 and the body is no longer than `span`. The reply keeps the beginning of a refusal
        (status 300 and above), and any failure on the way.

        Args:
            request: the signed request.
            span: the range.
            etag: only the object with this ETag is wanted; None: any.
            view: as long as `span`. It stays the caller's, and no reference is kept. Bytes from `Reply.landed` on are
                undefined.
            cancellation: cuts the request short.
        """
        ...

    def close(self) -> None:
        """Close the connections. One in use closes when its request has ended. Idempotent."""
        ...


class Window:
    """Checks that a body arrives at `MIN_SPEED` or faster, in each period of `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end = clock() + seconds
        self._at_start = 0

    def check(self, landed: int) -> None:
        """Raise `Failure.SLOW` after a period in which too little arrived. `landed` counts all bytes so far."""
        now = self._clock()
        if now < self._end:
            return
        if landed - self._at_start < MIN_SPEED * self._seconds:
            raise TransportError(Failure.SLOW)
        self._end, self._at_start = now + self._seconds, landed


def sent_headers(request: SignedRequest, span: ByteRange, etag: str | None) -> dict[str, str]:
    """Return the headers to send: those of the request, and unsigned the range, and the ETag wanted."""
    wanted = {"Range": f"bytes={span.start}-{span.end - 1}"} if request.ranged else {}
    return {**request.headers, **wanted, **conditions(etag)}


def conditions(etag: str | None) -> dict[str, str]:
    """Return the header that asks for the object with this ETag; none for any object."""
    return {} if etag is None else {"If-Match": etag}


def headers_in(head: str) -> dict[str, str]:
    """Return the headers in the head of an answer, like `headers_of`. It has a first line.

    Only a line feed ends a line, and a header needs a valid name before its colon: anyone who may set an object's
    metadata chooses values. A line that begins with a blank continues the one before it.
    """
    # Each range has a head. Nearly all are plain: CRLF alone ends lines, and no header comes twice.
    lines = head.split("\r\n")
    if not head.count("\n") == head.count("\r") == len(lines) - 1:
        return headers_of(_by_line(head))
    found: dict[str, str] = {}
    for line in lines[1:]:
        given, colon, value = line.partition(": ")
        name = _lower(given)
        if name is None or not colon or name in found or value != value.strip(" \t"):
            return headers_of(_by_line(head))
        found[name] = value
    return found


@functools.lru_cache(256)
def _lower(name: str) -> str | None:
    """Return a header's name in lower case; None if it is not a valid one. All answers of a store have the same few."""
    return name.lower() if _NAME.fullmatch(name) else None


def headers_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by names in lower case. Different values of one header are joined by commas."""
    found: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for given, value in pairs:
        name = given.lower()
        if found.setdefault(name, value) is not value:
            values = several.setdefault(name, [found[name]])
            if value not in values:
                values.append(value)
    return {**found, **{name: ", ".join(values) for name, values in several.items()}}


def _by_line(head: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line in head.split("\n")[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t"):
            if pairs:
                pairs[-1] = pairs[-1][0], f"{pairs[-1][1]} {_value(line)}".strip()
        elif colon and _NAME.fullmatch(name):
            pairs.append((name, _value(value)))
    return pairs


def _value(text: str) -> str:
    return text.replace("\r", " ").strip(" \t")


def is_wanted(reply: Reply, span: ByteRange, length: int) -> bool:
    """Whether the body may be the range asked for, by the rules of `Transport.get`."""
    said = reply.headers.get("content-length", "")
    if said.isdecimal() and int(said[:19]) > length:
        return False
    # Only the start is compared: an object shorter than the range ends earlier.
    content_range = reply.headers.get("content-range")
    if content_range is None:
        return reply.status == 200 and span.start == 0
    return content_range.startswith(f"bytes {span.start}-")
