"""Requests in flight that can be cut short.

botocore blocks in a socket call for as long as its timeout. Here each request knows its socket from before it
connects, so that another thread can shut the socket down and wake the reader. Only the resolution of a name, and
what a credential provider does on its own, last until their own timeouts.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_current = threading.local()


def current_flight() -> "Flight | None":
    """The flight of the request that this thread makes now; None outside `Flights.flight`."""
    return getattr(_current, "flight", None)


class Flight:
    """One request of one thread: a handle of its own on the socket in use, never the connection's.

    A handle of its own, since by the time another thread shuts it down the connection may have closed its own,
    and the number may name another file.
    """

    def __init__(self) -> None:
        self.searched = False
        """Whether botocore has asked in which region the bucket is."""
        self._lock = threading.Lock()
        self._cut = False
        self._handles: list[int] = []

    @property
    def cut(self) -> bool:
        """Whether the request is to end."""
        return self._cut

    def watch(self, descriptor: int) -> None:
        """Shut down this socket, and no longer an earlier one, when the request is cut: at once if it was."""
        with self._lock:
            self._release()
        self.watch_another(descriptor)

    def watch_another(self, descriptor: int) -> None:
        """As `watch`, but shut down the earlier ones as well: several addresses of a host are tried at once."""
        with self._lock:
            self._handles.append(os.dup(descriptor))
            if self._cut:
                self._shutdown()

    def stop(self) -> None:
        """Wake the thread that waits for the socket. From any thread."""
        with self._lock:
            self._cut = True
            self._shutdown()

    def land(self) -> None:
        """The request has ended, one way or another."""
        with self._lock:
            self._release()

    def _shutdown(self) -> None:
        for handle in self._handles:
            # Not through an SSLSocket, whose shutdown drops the TLS layer under the reader.
            plain = socket.socket(fileno=handle)
            try:
                plain.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Not connected yet, or not any more. The shutdown holds for a connect that follows all the same.
                pass
            finally:
                plain.detach()

    def _release(self) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            os.close(handle)


class Flights:
    """The requests of one source, and the switch that ends them all, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._flights: set[Flight] = set()

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until `stop`; True if that was it."""
        return self._stopped.wait(seconds)

    def stop(self) -> None:
        """Wake every thread that waits for a socket or in `wait`. Idempotent, from any thread."""
        self._stopped.set()
        with self._lock:
            for flight in self._flights:
                flight.stop()

    @contextmanager
    def flight(self) -> Iterator[Flight]:
        """Watch the sockets of the requests that this thread makes in the block."""
        flight = Flight()
        with self._lock:
            self._flights.add(flight)
            if self.stopped():
                flight.stop()
        _current.flight = flight
        try:
            yield flight
        finally:
            _current.flight = None
            with self._lock:
                self._flights.discard(flight)
            flight.land()
