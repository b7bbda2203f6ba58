"""Lets requests that botocore sends be cut short: each registers its socket with the thread's `Flight`."""

import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from runai_model_streamer.io.http.flights import current_flight
from runai_model_streamer.io.s3.answer_clock import ClockedResponse

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object


def watch_connections(client: Any) -> bool:
    """Register each connection of a client with the flight of the thread that uses it.

    Return False if botocore's internals have changed: requests then last until their timeout.
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
    # After a redirect, botocore asks for the bucket's region with a HEAD. If that is redirected too, it sends another
    # HEAD from within, until the stack overflows. A web server that redirects everything to https:// causes that.
    flight = current_flight()
    if flight is None or not flight.searched:
        if flight is not None:
            flight.searched = True
        return None
    nothing: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": 404, "HTTPHeaders": {}}}
    return SimpleNamespace(status_code=404), nothing


class _Watched(_Connection):
    """A mix-in that precedes one of botocore's connection classes."""

    response_class = ClockedResponse

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        # Not in `request`: its arguments are headers with signatures and tokens, and tracebacks can show arguments.
        flight = current_flight()
        if flight is not None and self.sock is not None:
            flight.watch(self.sock.fileno())
        super().putrequest(*args, **kwargs)

    def connect(self) -> None:
        began = time.perf_counter()
        super().connect()
        flight = current_flight()
        if flight is not None:
            flight.connect_seconds += time.perf_counter() - began

    def _new_conn(self) -> socket.socket:
        # Like urllib3's, but the flight knows the socket before it connects: a host that drops packets is the commonest
        # cause of a long wait.
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

        flight = current_flight()
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
