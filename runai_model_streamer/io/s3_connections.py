"""Requests in flight that can be cut short.

botocore blocks in a socket call for as long as its timeout. Here each request knows its socket from before it
connects, so that another thread can shut the socket down and wake the reader. Only the resolution of a name, and
what a credential provider does on its own, last until their own timeouts.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object

_current = threading.local()


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
        self._on_cut: Callable[[], None] | None = None
        self._handle: int | None = None

    @property
    def cut(self) -> bool:
        """Whether the request is to end."""
        return self._cut

    def watch(self, descriptor: int) -> None:
        """Shut down this socket, and no longer an earlier one, when the request is cut: at once if it was."""
        with self._lock:
            self._release()
            self._handle = os.dup(descriptor)
            if self._cut:
                self._shutdown()

    def on_cut(self, act: Callable[[], None] | None) -> None:
        """Call this, too, when the request is cut: at once if it was. None: no longer."""
        with self._lock:
            self._on_cut = act
            if act is not None and self._cut:
                act()

    def stop(self) -> None:
        """Wake the thread that waits for the socket. From any thread."""
        with self._lock:
            self._cut = True
            if self._on_cut is not None:
                self._on_cut()
            self._shutdown()

    def land(self) -> None:
        """The request has ended, one way or another."""
        with self._lock:
            self._release()

    def _shutdown(self) -> None:
        if self._handle is None:
            return
        # Not through an SSLSocket, whose shutdown drops the TLS layer under the reader.
        plain = socket.socket(fileno=self._handle)
        try:
            plain.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Not connected yet, or not any more. The shutdown holds for a connect that follows all the same.
            pass
        finally:
            plain.detach()

    def _release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


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


def watch_connections(client: Any) -> bool:
    """Make the connections of a client known to the flight of the thread that uses them.

    False where botocore's internals have changed: requests then last until the timeout.
    """
    client.meta.events.register("before-call.s3.HeadBucket", _refuse_second_search)
    try:
        pools = client._endpoint.http_session._pool_classes_by_scheme  # noqa: SLF001 - there is no public way
        for scheme, pool in list(pools.items()):
            connection = type(f"Watched{pool.ConnectionCls.__name__}", (_Watched, pool.ConnectionCls), {})
            pools[scheme] = type(f"Watched{pool.__name__}", (pool,), {"ConnectionCls": connection})
    except AttributeError:
        return False
    return True


def _refuse_second_search(**_: Any) -> tuple[Any, dict[str, Any]] | None:
    # Redirected, botocore asks for the bucket's region with a HEAD; redirected again, from within that HEAD with
    # another, until the stack overflows. A web server that redirects everything to https:// is enough for that.
    flight: Flight | None = getattr(_current, "flight", None)
    if flight is None or not flight.searched:
        if flight is not None:
            flight.searched = True
        return None
    nothing: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": 404, "HTTPHeaders": {}}}
    return SimpleNamespace(status_code=404), nothing


class _Watched(_Connection):
    """Goes before one of botocore's connection classes."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        flight: Flight | None = getattr(_current, "flight", None)
        if flight is not None and self.sock is not None:
            flight.watch(self.sock.fileno())
        super().request(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        # urllib3's, but the socket is known to the flight before it connects: a host that drops packets is the
        # commonest way to wait for long.
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

        flight: Flight | None = getattr(_current, "flight", None)
        if flight is None:
            return super()._new_conn()
        try:
            addresses = socket.getaddrinfo(self.host.strip("[]"), self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NewConnectionError(self, f"Failed to resolve the name: {error}") from error
        failure: OSError = OSError("no address")
        for family, kind, protocol, _, address in addresses:
            if flight.cut:
                break
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.timeout)
                flight.watch(sock.fileno())
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection within {self.timeout} s") from failure
        raise NewConnectionError(self, f"Failed to establish a new connection: {failure}") from failure
