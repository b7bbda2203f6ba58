"""How the bytes of an HTTP range reach a buffer: one seam, whichever library moves them.

A transport sends a request that is already signed and reports what came back: see `Transport.get`. It looks at an
answer only to keep what is not the range out of the caller's buffer; what the answer means is for the caller.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from runai_model_streamer.ranges import ByteRange

TEXT_LIMIT: Final = 64 << 10
"""Bytes kept of a body that is not the range asked for: an error's text is shorter, a whole object not wanted."""

LEAST_SPEED: Final = 1024
"""Bytes per second that a connection must bring over each span of the timeout, once its answer has begun. Slower than
this it is as good as dead, and another one may do better; a slow but working network is far above it."""

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
        failure: Exception | None = None,
    ) -> None:
        self.status = status
        """None when no answer began."""
        self.headers: Mapping[str, str] = headers or {}
        """Their names in lower case."""
        self.landed = landed
        """Bytes of a 206's body that are in the buffer, from its start."""
        self.text = b""
        """The beginning of any other body."""
        self._failure = failure

    def fail(self, failure: Exception) -> None:
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

    def on_cut(self, act: Callable[[], None] | None) -> None:
        """Call this, too, when the request is cut: at once if it was. None: no longer."""
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
        Only the body of a 206 whose Content-Range begins where `span` does gets there; of a refusal (300 and above)
        the beginning is kept, and of anything else nothing is received. Failures on the way are in the reply: they
        are exceptions of botocore or of the socket, `BodyLengthError` or `SlowBodyError`.
        """
        ...

    def close(self) -> None:
        """Close the connections; one that is in use, when its request has ended. Idempotent."""
        ...


class BodyLengthError(Exception):
    """A body that ended early, or not where it should have."""

    def __init__(self, came: int, asked: int) -> None:
        super().__init__(f"the answer's body had {came} bytes instead of {asked}")


class SlowBodyError(TimeoutError):
    """A connection that brings next to nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"sent less than {LEAST_SPEED} bytes per second for {seconds:g} s")


class Window:
    """Holds a body against `LEAST_SPEED`, over one span of `seconds` after another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._at_start = 0

    def check(self, landed: int) -> None:
        """Raise SlowBodyError when a span is over in which too little came; `landed` is what came in all."""
        now = time.monotonic()
        if now < self._end:
            return
        if landed - self._at_start < LEAST_SPEED * self._seconds:
            raise SlowBodyError(self._seconds)
        self._end, self._at_start = now + self._seconds, landed


def range_headers(span: ByteRange, etag: str | None) -> dict[str, str]:
    """The headers that go beside the signed ones."""
    wanted = {"Range": f"bytes={span.start}-{span.end - 1}"}
    if etag is not None:
        wanted["If-Match"] = etag
    return wanted


def expected_range(span: ByteRange) -> str:
    """How Content-Range must begin. An object that is shorter than the range ends it earlier."""
    return f"bytes {span.start}-"
