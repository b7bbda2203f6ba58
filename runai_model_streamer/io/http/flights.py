"""Requests in flight that can be cut short.

botocore blocks in a socket call until its timeout. Here each request knows its socket before it connects, so another
thread can shut the socket down and wake the reader. Only name resolution and credential providers last until their own
timeouts.
"""

import os
import socket
import threading
from collections.abc import Callable
from typing import Self

_current = threading.local()


def current_flight() -> "Flight | None":
    """Return the flight of this thread's current request; None outside `Flights.flight`."""
    return getattr(_current, "flight", None)


class Flight:
    """One request of one thread, with a duplicate of the descriptor of its socket.

    A duplicate, because the connection may close its own descriptor before another thread shuts the socket down. The
    number could then name another file.

    Args:
        flights: what it belongs to while it is a context, in which its thread makes requests.
    """

    def __init__(self, flights: "Flights | None" = None) -> None:
        self._flights = flights
        self.searched = False
        """Whether botocore has already asked for the bucket's region."""
        self.connect_seconds = 0.0
        """Seconds in which its connection was made; next to 0 where an earlier one was used."""
        self.landed: Callable[[], int] | None = None
        """Returns how many bytes of its answer have landed; None where that is not known."""
        self.elsewhere = False
        """Whether it was refused by an address whose name has others that serve."""
        self._lock = threading.Lock()
        self._cut = False
        self._handles: list[int] = []

    def __enter__(self) -> Self:
        if self._flights is not None:
            self._flights.begin(self)
        _current.flight = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.flight = None
        if self._flights is not None:
            self._flights.end(self)
        self.landed = None  # it may refer to what refers to this flight
        with self._lock:
            if self._handles:
                self._release()

    @property
    def cut(self) -> bool:
        """Whether the request is to end."""
        return self._cut

    def watch(self, descriptor: int) -> None:
        """Shut down this socket, in place of an earlier one, when the request is cut; at once if it already was."""
        with self._lock:
            if self._handles:
                self._release()
            self._add(descriptor)

    def watch_another(self, descriptor: int) -> None:
        """Like `watch`, but in addition to the earlier ones: several addresses of a host are tried at once."""
        with self._lock:
            self._add(descriptor)

    def stop(self) -> None:
        """Cut the request: wake the thread that waits for the socket. From any thread."""
        with self._lock:
            self._cut = True
            self._shutdown()

    def _add(self, descriptor: int) -> None:
        self._handles.append(os.dup(descriptor))
        if self._cut:
            self._shutdown()

    def _shutdown(self) -> None:
        for handle in self._handles:
            # Not through an SSLSocket: its shutdown would drop the TLS layer under the reader.
            plain = socket.socket(fileno=handle)
            try:
                plain.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Not connected yet, or no longer. The shutdown still affects a connect that follows.
                pass
            finally:
                plain.detach()

    def _release(self) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            os.close(handle)


class Flights:
    """The requests of one source, and the switch that ends them all for good.

    No lock: a flight that begins beside `stop` either is among those that `stop` sees, or sees itself that all is over.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._over = False
        self._flights: set[Flight] = set()

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._over

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until `stop`. Return True if stopped."""
        return self._stopped.wait(seconds)

    def stop(self) -> None:
        """Wake every thread that waits for a socket or in `wait`. Idempotent, from any thread."""
        self._over = True
        self._stopped.set()
        for flight in list(self._flights):
            flight.stop()

    def flight(self) -> Flight:
        """Return a context that watches the sockets of the requests that this thread makes in it."""
        return Flight(self)

    def begin(self, flight: Flight) -> None:
        """Let `stop` cut this flight, too: at once if it was called."""
        self._flights.add(flight)
        if self._over:
            flight.stop()

    def end(self, flight: Flight) -> None:
        """Forget this flight."""
        self._flights.discard(flight)
