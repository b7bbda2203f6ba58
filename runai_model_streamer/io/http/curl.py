"""The transport without the GIL: libcurl receives, and a compiled callback copies into the buffer.

Python takes and gives back the GIL for every piece that it reads, over TLS for every 16 KiB, and so does whatever else
runs in the process. Here a range costs that once.
"""

import contextlib
import ctypes
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from runai_model_streamer.io.http import libcurl
from runai_model_streamer.io.http.curl_failures import failure_of
from runai_model_streamer.io.http.failures import Failure, TransportError, wrong_length
from runai_model_streamer.io.http.libcurl import Code, Easy, Library, UnusableError
from runai_model_streamer.io.http.proxies import Proxy, proxy_for
from runai_model_streamer.io.http.transport import (
    MIN_SPEED,
    Cancellation,
    Reply,
    SignedRequest,
    expected_range,
    header_lines,
    headers_of,
    range_headers,
)
from runai_model_streamer.ranges import ByteRange
from runai_model_streamer.threads.forks import OwnProcess

_BUFFER: Final = 256 << 10
"""Bytes that libcurl receives at once."""

_LOOK: Final = 0.25
"""Seconds: a signal that arrives just before a thread begins to wait for a lock does not wake it."""

_SECOND: Final = 1_000_000_000


def make_curl_transport(timeout: float, certificates: str) -> "CurlTransport":
    """Make the transport over libcurl; see `CurlTransport`.

    Raises:
        UnusableError: there is no libcurl, or it lacks something.
        ImportError: numba is missing.
        Exception: numba's own, where it cannot compile.
    """
    # libcurl first: it is found at once, while numba takes most of a second.
    library = libcurl.load()
    from runai_model_streamer.kernels import curl_sink

    return CurlTransport(library, curl_sink, timeout, certificates, proxy_for)


class CurlTransport:
    """See `Transport`. Idle connections wait, the last used on top, for whichever thread comes next.

    Raises:
        UnusableError: this libcurl lacks something.
    """

    def __init__(
        self, library: Library, kernel: Any, timeout: float, certificates: str, proxies: Callable[[str], Proxy]
    ) -> None:
        """`kernel` is `kernels.curl_sink`; `certificates` a file of authorities to trust.

        `proxies` gives a URL's proxy.
        """
        self.name = f"curl {library.version} ({library.path})"
        self._library = library
        self._kernel = kernel
        self._timeout = timeout
        self._certificates = certificates
        self._proxies = proxies
        self._lock = threading.Lock()
        self._closed = False
        self._process = OwnProcess()
        self._idle = [self._connect()]

    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        """See `Transport.get`."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            proxy = self._proxies(request.url)
            return connection.get(request, span, etag, view, cancellation, proxy)
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    connection = None
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """See `Transport.close`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if self._process.forked:
            # After a fork the connections are the parent's: to end TLS on them would end it for the parent.
            return
        for connection in idle:
            connection.close()

    def _connect(self) -> "_Connection":
        return _Connection(self._library, self._kernel, self._timeout, self._certificates)


class _Connection:
    """A handle of libcurl's, the sink that its callbacks fill, and its socket."""

    def __init__(self, library: Library, kernel: Any, timeout: float, certificates: str) -> None:
        self._kernel = kernel
        self._timeout = timeout
        self._sink = ctypes.create_string_buffer(kernel.SINK_BYTES)
        self._fields = (ctypes.c_int64 * kernel.FIELDS).from_buffer(self._sink)
        self._base = ctypes.addressof(self._sink)
        self._says = ctypes.create_string_buffer(libcurl.ERROR_BYTES)
        self._errno = 0
        self._cancellation: Cancellation | None = None
        # ctypes does not keep what libcurl is to call.
        self._opener = libcurl.OpenSocket(self._open)
        self._easy = Easy(library)
        for option, value in {
            libcurl.NOSIGNAL: 1,
            libcurl.HTTP_VERSION: libcurl.HTTP_1_1,
            libcurl.PROTOCOLS: libcurl.HTTP_AND_HTTPS,
            # A key may have /../ in it.
            libcurl.PATH_AS_IS: 1,
            libcurl.SUPPRESS_CONNECT_HEADERS: 1,
            libcurl.TCP_KEEPALIVE: 1,
            libcurl.BUFFERSIZE: _BUFFER,
            libcurl.CONNECTTIMEOUT_MS: max(1, int(timeout * 1000)),
            libcurl.CAINFO: certificates,
            # The environment's proxies are read where botocore reads them.
            libcurl.NOPROXY: "",
            libcurl.ERRORBUFFER: ctypes.addressof(self._says),
            libcurl.WRITEFUNCTION: kernel.take_body.address,
            libcurl.WRITEDATA: self._base,
            libcurl.HEADERFUNCTION: kernel.take_header.address,
            libcurl.HEADERDATA: self._base,
            libcurl.XFERINFOFUNCTION: kernel.watch_progress.address,
            libcurl.XFERINFODATA: self._base,
            libcurl.NOPROGRESS: 0,
            libcurl.OPENSOCKETFUNCTION: self._opener,
        }.items():
            self._easy.set(option, value)
        # Beside CAINFO, the folder that libcurl was built with stays in force. Where its TLS knows no folders, or it no
        # proxies over TLS, it refuses the option, and has no use for it.
        for option, certified in {
            libcurl.CAPATH: None,
            libcurl.PROXY_CAINFO: certificates,
            libcurl.PROXY_CAPATH: None,
        }.items():
            with contextlib.suppress(UnusableError):
                self._easy.set(option, certified)

    def get(
        self,
        request: SignedRequest,
        span: ByteRange,
        etag: str | None,
        view: memoryview,
        cancellation: Cancellation,
        proxy: Proxy,
    ) -> Reply:
        headers = {**request.headers, **range_headers(span, etag)}
        self._easy.set(libcurl.URL, request.url)
        self._easy.set(libcurl.PROXY, proxy.url)
        self._easy.set(libcurl.PROXYUSERNAME, proxy.user)
        self._easy.set(libcurl.PROXYPASSWORD, proxy.password)
        self._easy.set_headers(headers)
        self._says.value = b""
        self._errno = 0
        window = (ctypes.c_char * len(view)).from_buffer(view)
        self._prepare(span, ctypes.addressof(window), len(view))
        self._cancellation = cancellation
        kept = self._easy.socket()
        if kept != libcurl.BAD_SOCKET:
            cancellation.watch(kept)
        cancellation.on_cut(self._cancel)
        try:
            code = self._perform(cancellation)
        finally:
            cancellation.on_cut(None)
            self._cancellation = None
            # The view's owner could not release it while this lived.
            del window
        return self._reply(code, request.url, len(view), bool(proxy.url))

    def close(self) -> None:
        self._easy.close()

    def _perform(self, cancellation: Cancellation) -> int:
        if threading.current_thread() is not threading.main_thread():
            return self._easy.perform()
        # Ctrl-C arrives where the main thread runs Python, and would have to wait for libcurl.
        codes: list[int] = []
        begun, ended = threading.Lock(), threading.Event()

        def perform() -> None:
            if begun.acquire(blocking=False):
                try:
                    codes.append(self._easy.perform())
                finally:
                    ended.set()

        try:
            threading.Thread(target=perform, name="runai-curl", daemon=True).start()
            while not ended.wait(_LOOK):
                pass
        except BaseException:
            # However often it is pressed: libcurl is at work on this connection, and writes into the caller's buffer.
            while not ended.is_set():
                with contextlib.suppress(KeyboardInterrupt):
                    cancellation.stop()
                    if begun.acquire(blocking=False):
                        ended.set()  # the thread has not begun, and will not
                    ended.wait()
            raise
        return codes[0]

    def _prepare(self, span: ByteRange, destination: int, length: int) -> None:
        k, fields = self._kernel, self._fields
        ctypes.memset(self._base, 0, 8 * k.FIELDS)
        expected = expected_range(span).encode()
        ctypes.memmove(self._base + k.EXPECTED_AT, expected, len(expected))
        fields[k.EXPECTED_LENGTH] = len(expected)
        fields[k.BASE] = self._base
        fields[k.DESTINATION] = destination
        fields[k.LENGTH] = length
        fields[k.WHOLE_FITS] = 0 if span.start else 1
        fields[k.TIMEOUT] = fields[k.ANSWER_TIMEOUT] = int(self._timeout * _SECOND)
        fields[k.MIN_BYTES] = int(self._timeout * MIN_SPEED)

    def _reply(self, code: int, url: str, length: int, proxy: bool) -> Reply:
        k, fields = self._kernel, self._fields
        status = fields[k.STATUS] if fields[k.ANSWERED] else None
        reply = Reply(status, self._headers() if status else None, fields[k.LANDED])
        reply.text = ctypes.string_at(self._base + k.TEXT_AT, fields[k.TEXT_LENGTH])
        reason = fields[k.REASON]
        if code == Code.OK and status is not None:
            return reply
        if reason in (k.UNFIT, k.TEXT_FULL):
            return reply
        if reason == k.TOO_LONG:
            reply.landed, reply.overrun = 0, True
            reply.fail(wrong_length(length + 1, length))
        elif reason in (k.SLOW, k.STALLED):
            reply.fail(TransportError(Failure.SLOW if reason == k.SLOW else Failure.STALLED, "", url))
        elif code == Code.PARTIAL_FILE:
            reply.fail(wrong_length(reply.landed, length))
        else:
            errno = self._errno or self._easy.system_error()
            says = self._says.value.decode(errors="replace")
            reply.fail(failure_of(code, says, errno, url, proxy=proxy, proxy_status=self._easy.proxy_status()))
        return reply

    def _headers(self) -> Mapping[str, str]:
        k = self._kernel
        head = ctypes.string_at(self._base + k.HEAD_AT, self._fields[k.HEAD_LENGTH]).decode("latin-1")
        return headers_of(header_lines(head))

    def _cancel(self) -> None:
        self._fields[self._kernel.CANCELLED] = 1

    def _open(self, _: int, __: int, address: Any) -> int:
        """CURLOPT_OPENSOCKETFUNCTION: make the socket known before it connects."""
        cancellation = self._cancellation
        if cancellation is None or cancellation.cut:
            return libcurl.BAD_SOCKET
        wanted = address.contents
        try:
            with socket.socket(wanted.family, wanted.kind, wanted.protocol) as made:
                cancellation.watch(made.fileno())
                descriptor = made.detach()
        except Exception as error:
            # Out of this function ctypes would make 0: standard input.
            self._errno = getattr(error, "errno", None) or 0
            return libcurl.BAD_SOCKET
        # Connecting has its own limit, and the answer then as long again.
        self._fields[self._kernel.ANSWER_TIMEOUT] = 2 * self._fields[self._kernel.TIMEOUT]
        return descriptor
