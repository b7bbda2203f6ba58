"""How the bytes of an HTTP range reach a buffer: one seam, whichever library moves them.

A transport sends a request that is already signed and reports what came back: see `Transport.get`. It looks at an
answer only to keep what is not the range out of the caller's buffer; what the answer means is for the caller.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.ranges import ByteRange

TEXT_LIMIT: Final = 64 << 10
"""Bytes kept of a body that is not the range asked for: an error's text is shorter, a whole object not wanted."""

MIN_SPEED: Final = 1024
"""Bytes per second that a connection must bring over each span of the timeout, once its answer has begun. Slower than
this it is as good as dead, and another one may do better; a slow but working network is far above it."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_FRESH: Final = 300.0
"""Seconds for which a signature serves. Stores take it for 15 minutes, counted by their own clocks."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A GET of a whole object. `Range` and `If-Match` go beside the signed headers, so that it serves every range."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    made: float
    """Seconds since the epoch: a clock that goes on while the machine sleeps, as the store's does."""

    @property
    def fresh(self) -> bool:
        """Whether the signature still serves."""
        return abs(time.time() - self.made) < _FRESH


class Reply:
    """What came back for one request, complete or not."""

    def __init__(
        self,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        landed: int = 0,
        failure: TransportError | None = None,
    ) -> None:
        self.status = status
        """None when no answer began."""
        self.headers: Mapping[str, str] = headers or {}
        """Their names in lower case."""
        self.landed = landed
        """Bytes of a 206's body that are in the buffer, from its start."""
        self.text = b""
        """The beginning of any other body."""
        self.overrun = False
        """The body is longer than the range, or says so; nothing of it counts."""
        self._failure = failure

    def fail(self, failure: TransportError) -> None:
        """The rest did not come, and this is why."""
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


class Cancellation(Protocol):
    """The switch that ends one request early; see `flights.Flight`."""

    @property
    def cut(self) -> bool:
        """Whether the request is to end."""
        ...

    def watch(self, descriptor: int) -> None:
        """Shut down this socket when the request is cut: at once if it was."""
        ...

    def stop(self) -> None:
        """Cut the request. From any thread."""
        ...

    def watch_another(self, descriptor: int) -> None:
        """As `watch`, but shut down the earlier ones as well: several addresses of a host are tried at once."""
        ...


class Transport(Protocol):
    """Sends signed requests over connections that are kept between them. Thread safe."""

    @property
    def name(self) -> str:
        """For logs, with the version of what moves the bytes."""
        ...

    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        """Ask for a range, of the object with this ETag if one is given, and land its body in `view`.

        `view` is as long as `span`, and the caller's; nothing of it is kept. Bytes beyond `Reply.landed` are undefined.
        Only a body whose Content-Range begins where `span` does counts as landed, and that of a 200 without one, to a
        range from byte 0 on, unless it is longer than the range; of a refusal (300 and above) the beginning is kept.
        Failures on the way are in the reply.
        """
        ...

    def close(self) -> None:
        """Close the connections; one that is in use, when its request has ended. Idempotent."""
        ...


class Window:
    """Holds a body against `MIN_SPEED`, over one span of `seconds` after another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._at_start = 0

    def check(self, landed: int) -> None:
        """Raise `Failure.SLOW` when a span is over in which too little came; `landed` is what came in all."""
        now = time.monotonic()
        if now < self._end:
            return
        if landed - self._at_start < MIN_SPEED * self._seconds:
            raise TransportError(Failure.SLOW)
        self._end, self._at_start = now + self._seconds, landed


def range_headers(span: ByteRange, etag: str | None) -> dict[str, str]:
    """The headers that go beside the signed ones."""
    wanted = {"Range": f"bytes={span.start}-{span.end - 1}"}
    if etag is not None:
        wanted["If-Match"] = etag
    return wanted


def headers_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in lower case. Of one that came more than once, all values that differ, with commas."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        values = found.setdefault(name.lower(), [])
        if value not in values:
            values.append(value)
    return {name: ", ".join(values) for name, values in found.items()}


def header_lines(head: str) -> Iterator[tuple[str, str]]:
    """Names and values of the head of an answer, without its first line.

    Only a line feed ends a line, and what is no name before a colon begins no header: values come from whoever may set
    an object's metadata. A line that begins with a blank goes on with the one before it.
    """
    pairs: list[tuple[str, str]] = []
    for line in head.split("\n")[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t"):
            if pairs:
                pairs[-1] = pairs[-1][0], f"{pairs[-1][1]} {_value(line)}".strip()
        elif colon and _NAME.fullmatch(name):
            pairs.append((name, _value(value)))
    yield from pairs


def _value(text: str) -> str:
    return text.replace("\r", " ").strip(" \t")


def is_wanted(reply: Reply, span: ByteRange, length: int) -> bool:
    """Whether the body may be what was asked for: see `Transport.get`."""
    said = reply.headers.get("content-length", "")
    if said.isdecimal() and int(said[:19]) > length:
        return False
    # An object that is shorter than the range ends it earlier.
    content_range = reply.headers.get("content-range")
    if content_range is None:
        return reply.status == 200 and span.start == 0
    return content_range.startswith(f"bytes {span.start}-")
