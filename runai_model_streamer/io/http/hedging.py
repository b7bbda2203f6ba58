"""Requests the rest of a range a second time if it lags far behind others. The first complete answer counts.

The two answers never share memory. The first request writes into the caller's buffer, the second into its own: what
the first had not brought when the second was made. If the second is complete first, the connection of the first is
shut down. The thread of the first waits until the caller's buffer is no longer written, and copies there what is
missing. So the buffer is released no earlier than without a second request, and bytes count once: one reply is
returned. Both answers have to be of one version of the object.

A second request is never retried, and its failure changes nothing. If it is late itself, another one is made.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from typing_extensions import override

from runai_model_streamer.io.http.answers import Version
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.laggards import HedgePolicy, Laggards, Late
from runai_model_streamer.io.http.transport import Cancellation, Reply, SignedRequest, Transport
from runai_model_streamer.ranges import ByteRange
from runai_model_streamer.threads.forks import OwnProcess

_log = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 0.5
"""Maximum seconds to wait for each thread, whose request has been cut."""


class _Second(NamedTuple):
    """A complete answer to a second request."""

    start: int
    """Where in the range it begins."""
    reply: Reply
    body: bytearray

    def complete(self, first: Reply, view: memoryview) -> Reply:
        """Write what the first answer lacks. Return one reply to the whole range, or the first if they do not fit."""
        if not self.start:
            view[:] = self.body
            return self.reply
        have = first.landed
        if have < self.start or _identity(first) != _identity(self.reply):
            return first
        with memoryview(self.body) as body:
            view[have:] = body[have - self.start :]
        return Reply(first.status, first.headers, len(view))


class _Request:
    """A request in flight, and the second ones for the same range."""

    def __init__(self, request: SignedRequest, span: ByteRange, etag: str | None, cancellation: Cancellation) -> None:
        self.request = request
        self.span = span
        self.etag = etag
        self.cancellation = cancellation
        self.ended = False
        self.second: _Second | None = None
        """The second answer, if it was complete while the first was not."""
        self.flights: Flights | None = None
        """Cuts the second requests; None before there are any."""


class HedgedTransport(Transport):
    """A transport that requests the rest of late ranges a second time.

    Args:
        inner: makes all requests.
        policy: when to make a second request.
        clock: returns seconds from an arbitrary moment.
    """

    def __init__(
        self, inner: Transport, policy: HedgePolicy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._policy = policy or HedgePolicy()
        self._clock = clock
        self._lock = threading.Lock()
        self._laggards: Laggards[_Request] = Laggards(self._policy)
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        self._threads: set[threading.Thread] = set()
        self._asked = 0
        self._process = OwnProcess()

    @property
    def spent(self) -> int:
        """Bytes that have come twice, and those of second requests in flight."""
        return self._laggards.spent

    @property
    def asked(self) -> int:
        """Number of second requests so far."""
        return self._asked

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        size = len(view)
        if size < self._policy.min_bytes:
            return self._inner.get(request, span, etag, view, cancellation)
        work = _Request(request, span, etag, cancellation)
        complete = False
        self._begin(work, size)
        try:
            reply = self._inner.get(request, span, etag, view, cancellation)
            complete = _is_complete(reply, size)
        finally:
            self._end(work, complete=complete)
        return reply if complete or work.second is None else work.second.complete(reply, view)

    def _begin(self, work: _Request, size: int) -> None:
        with self._lock:
            self._laggards.begin(work, size, self._clock())
            # After a fork the thread is the parent's.
            if self._watch is None or self._process.forked:
                self._process = OwnProcess()
                watch = threading.Thread(target=self._run, name="runai-hedge-watch", daemon=True)
                watch.start()
                self._watch = watch

    def _end(self, work: _Request, *, complete: bool) -> None:
        with self._lock:
            work.ended = True
            came = complete or work.second is not None
            self._laggards.end(work, self._clock(), complete=complete, came=came)
        if work.flights is not None:
            work.flights.stop()

    def _run(self) -> None:
        """Look for late requests while any are in flight."""
        while True:
            closed = self._closed.wait(self._policy.tick)
            with self._lock:
                if closed or not self._laggards.any:
                    self._watch = None
                    return
                for late in self._laggards.find(self._clock(), _landed):
                    flights = late.key.flights = late.key.flights or Flights()
                    work = (late, flights)
                    thread = threading.Thread(target=self._ask_again, args=work, name="runai-hedge", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # no more threads: the first request goes on
                        self._laggards.forget(late, 0)
                    else:
                        self._threads.add(thread)
                        self._asked += 1

    def _ask_again(self, late: Late[_Request], flights: Flights) -> None:
        work = late.key
        rest = ByteRange(work.span.end - late.rest, work.span.end)
        second: _Second | None = None
        twice = 0
        try:
            _log.debug("%s is late: asking for %s a second time", work.span, rest)
            body = bytearray(late.rest)
            with flights.flight() as flight, memoryview(body) as view:
                reply = self._inner.get(work.request, rest, work.etag, view, flight)
            twice = reply.landed
            if _is_complete(reply, late.rest):
                second = _Second(late.landed, reply, body)
        except Exception as error:
            _log.debug("%s: the second request failed: %s", rest, type(error).__name__)
        with self._lock:
            self._threads.discard(threading.current_thread())
            first = second is not None and not work.ended and work.second is None
            if first:
                work.second = second
                twice = max((_landed(work) or 0) - late.landed, 0)
            self._laggards.forget(late, twice)
        if first:
            work.cancellation.stop()

    @override
    def close(self) -> None:
        self._closed.set()
        self._inner.close()
        with self._lock:
            threads = [*self._threads, *([self._watch] if self._watch else [])]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)


def hedged(transport: Transport, second_answers: int) -> Transport:
    """Return the transport, with second requests if their answers may take so many bytes of memory."""
    return HedgedTransport(transport, HedgePolicy(held=second_answers)) if second_answers else transport


def _landed(work: _Request) -> int | None:
    landed = work.cancellation.landed
    return None if landed is None else landed()


def _identity(reply: Reply) -> tuple[Version, str]:
    return Version.of(reply), reply.headers.get("content-range", "").rpartition("/")[2]


def _is_complete(reply: Reply, size: int) -> bool:
    return reply.status == 206 and reply.landed == size
