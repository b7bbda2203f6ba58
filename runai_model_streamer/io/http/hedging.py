"""Requests a range a second time if it lags far behind others. The first complete answer counts.

The two answers never share memory. The first request writes into the caller's buffer, the second into its own. If the
second is complete first, the connection of the first is shut down. The thread of the first waits until the caller's
buffer is no longer written, copies the second answer there, and returns it. So the buffer is released no earlier than
without a second request, and bytes count once: one reply is returned.

A second request is never retried, and its failure changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from typing_extensions import override

from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.http.laggards import HedgePolicy, Laggards
from runai_model_streamer.io.http.transport import Cancellation, Reply, SignedRequest, Transport
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 0.5
"""Maximum seconds to wait for each thread, whose request has been cut."""


class _Request:
    """A request in flight, and the second one for the same range."""

    def __init__(self, request: SignedRequest, span: ByteRange, etag: str | None, cancellation: Cancellation) -> None:
        self.request = request
        self.span = span
        self.etag = etag
        self.cancellation = cancellation
        self.ended = False
        self.second: tuple[Reply, bytearray] | None = None
        """The second answer, if it was complete while the first was not."""
        self.flights = Flights()
        """Cuts the second request."""


class HedgedTransport(Transport):
    """A transport that requests late ranges a second time.

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

    @property
    def spent(self) -> int:
        """All bytes requested a second time."""
        return self._laggards.spent

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        if span.size < self._policy.min_bytes:
            return self._inner.get(request, span, etag, view, cancellation)
        work = _Request(request, span, etag, cancellation)
        complete = False
        self._begin(work)
        try:
            reply = self._inner.get(request, span, etag, view, cancellation)
            complete = _is_complete(reply, span)
        finally:
            self._end(work, complete=complete)
        if complete or work.second is None:
            return reply
        reply, buffer = work.second
        view[:] = buffer
        return reply

    def _begin(self, work: _Request) -> None:
        with self._lock:
            self._laggards.begin(work, work.span.size, self._clock())
            # After a fork the thread is the parent's.
            if self._watch is None or not self._watch.is_alive():
                self._watch = threading.Thread(target=self._run, name="runai-hedge-watch", daemon=True)
                self._watch.start()

    def _end(self, work: _Request, *, complete: bool) -> None:
        with self._lock:
            work.ended = True
            came = complete or work.second is not None
            self._laggards.end(work, self._clock(), complete=complete, came=came)
        work.flights.stop()

    def _run(self) -> None:
        """Look for late requests while any are in flight."""
        while True:
            closed = self._closed.wait(self._policy.tick)
            with self._lock:
                if closed or not self._laggards.any:
                    self._watch = None
                    return
                for work in self._laggards.find(self._clock(), _landed):
                    thread = threading.Thread(target=self._ask_again, args=(work,), name="runai-hedge", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # no more threads: the first request goes on
                        self._laggards.forget(work)
                    else:
                        self._threads.add(thread)

    def _ask_again(self, work: _Request) -> None:
        second: tuple[Reply, bytearray] | None = None
        try:
            _log.debug("%s is late: asking for it a second time", work.span)
            buffer = bytearray(work.span.size)
            with work.flights.flight() as flight, memoryview(buffer) as view:
                reply = self._inner.get(work.request, work.span, work.etag, view, flight)
            if _is_complete(reply, work.span):
                second = reply, buffer
        except Exception as error:
            _log.debug("%s: the second request failed: %s", work.span, type(error).__name__)
        with self._lock:
            self._threads.discard(threading.current_thread())
            self._laggards.forget(work)
            if work.ended or second is None:
                return
            work.second = second
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


def _is_complete(reply: Reply, span: ByteRange) -> bool:
    return reply.status == 206 and reply.landed == span.size
