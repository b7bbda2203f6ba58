"""The transport without the GIL: libcurl receives, and writes into the buffer by itself.

Python takes and releases the GIL for each piece that it reads (over TLS, each 16 KiB). Other threads compete for it.
Here a whole range costs that once. libcurl gets no Python callback: it writes the body to a C stream over the
buffer (`MemoryStream`), and the head of the answer to another one. Nothing has to be compiled. One thread watches the
clock for all requests (`progress`), and shuts down the socket of a request that stalls.

libcurl writes any answer into the buffer, even a proxy's error page. The bytes count only if the head fits the request.
"""

import threading
from collections.abc import Callable

from typing_extensions import override

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.addresses import Addresses
from runai_model_streamer.io.http.curl.connection import Connection, Settings
from runai_model_streamer.io.http.curl.libcurl import Library
from runai_model_streamer.io.http.curl.sessions import Sessions
from runai_model_streamer.io.http.curl.trust import Trust
from runai_model_streamer.io.http.progress import Watcher
from runai_model_streamer.io.http.proxies import Proxies, Proxy
from runai_model_streamer.io.http.transport import Cancellation, Reply, SignedRequest, Transport
from runai_model_streamer.ranges import ByteRange
from runai_model_streamer.threads.forks import OwnProcess


def make_curl_transport(
    timeout: float, certificates: str, load: Callable[[], Library] = libcurl.load
) -> "CurlTransport":
    """Make a `CurlTransport` with the libcurl that `load` finds.

    Raises:
        UnusableError: there is no libcurl, or it lacks something.
    """
    return CurlTransport(load(), timeout, certificates, Proxies())


class CurlTransport(Transport):
    """A `Transport` over libcurl. Threads share the idle connections; the one used last is taken first.

    A connection to an address that serves worse than others of its name is not used again; see `health`.

    Raises:
        UnusableError: this libcurl lacks something.
    """

    def __init__(
        self,
        library: Library,
        timeout: float,
        certificates: str,
        proxies: Callable[[str], Proxy],
        addresses: Addresses | None = None,
    ) -> None:
        """`certificates` is the path of a CA file; `proxies` returns the proxy for a URL."""
        self.name = f"curl {library.version} ({library.path})"
        self._library = library
        self._timeout = timeout
        self._certificates = certificates
        self._trust = Trust(library, certificates)
        self._sessions = Sessions(library)
        self._proxies = proxies
        self._lock = threading.Lock()
        self._closed = False
        self._process = OwnProcess()
        self._watcher = Watcher(timeout)
        self._addresses = addresses or Addresses()
        self._idle = [self._connect()]

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            return connection.get(request, span, etag, view, cancellation)
        finally:
            with self._lock:
                if not self._closed and not connection.worse:
                    self._idle.append(connection)
                    connection = None
            if connection is not None:
                connection.close()
                if self._closed:
                    self._sessions.close()

    @override
    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if self._process.forked:
            # After a fork the connections are the parent's: closing TLS here would close it for the parent.
            return
        for connection in idle:
            connection.close()
        self._watcher.close()
        self._trust.close()
        self._sessions.close()

    def _connect(self) -> "Connection":
        settings = Settings(
            self._timeout, self._certificates, self._trust, self._sessions, self._proxies, self._addresses
        )
        return Connection(self._library, self._watcher, settings)
