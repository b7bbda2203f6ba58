"""One libcurl handle: makes one request at a time, and judges what came."""

import contextlib
import ctypes
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.addresses import Addresses
from runai_model_streamer.io.http.curl.failures import failure_of
from runai_model_streamer.io.http.curl.health import REFUSED as REFUSED_RATE
from runai_model_streamer.io.http.curl.health import Health
from runai_model_streamer.io.http.curl.libcurl import Code, Easy, Library, UnusableError
from runai_model_streamer.io.http.curl.request import CurlRequest, MemoryStream, last_answer
from runai_model_streamer.io.http.curl.sessions import Sessions
from runai_model_streamer.io.http.curl.sockets import OpenSocket
from runai_model_streamer.io.http.curl.trust import Trust
from runai_model_streamer.io.http.failures import REFUSED, REFUSED_STATUSES, UNREACHABLE, TransportError, wrong_length
from runai_model_streamer.io.http.progress import Watcher
from runai_model_streamer.io.http.proxies import Proxy
from runai_model_streamer.io.http.transport import (
    TEXT_LIMIT,
    Cancellation,
    Reply,
    SignedRequest,
    conditions,
    headers_in,
    is_wanted,
)
from runai_model_streamer.ranges import ByteRange
from runai_model_streamer.threads.signals import LOOK_SECONDS

_BUFFER: Final = 256 << 10
"""Size of libcurl's receive buffer, in bytes."""

_HEAD_LIMIT: Final = 64 << 10
"""Maximum bytes of an answer's head, with the interim answers before it."""

_HURRIED: Final = 6.0
"""Maximum seconds for a connection where a name has other addresses that serve. libcurl gives half of what is left to
each, so that SYN packets are sent three times to the first."""

_COMPARED: Final = 1 << 20
"""Minimum bytes of a range whose rate tells something of an address."""


class Settings(NamedTuple):
    """What all connections of a transport have in common."""

    timeout: float
    """Seconds for a connection, for an answer to begin, and between two pieces of it."""
    certificates: str
    """Path of the file with the authorities."""
    trust: Trust
    sessions: Sessions
    proxies: Callable[[str], Proxy]
    """Returns the proxy for a URL."""
    addresses: Addresses


class Connection:
    """A libcurl handle, and the request that it performs."""

    def __init__(self, library: Library, watcher: Watcher, settings: Settings) -> None:
        self._watcher = watcher
        self._timeout = settings.timeout
        self._proxies = settings.proxies
        self._addresses = settings.addresses
        self._says = ctypes.create_string_buffer(libcurl.ERROR_BYTES)
        self._head_bytes = ctypes.create_string_buffer(_HEAD_LIMIT)
        self._head = MemoryStream(ctypes.addressof(self._head_bytes), _HEAD_LIMIT)
        self._errno = 0
        self._health: Health | None = None  # of a name's addresses, where there are several
        self._address = ""  # the one in use
        self._tried: list[str] = []
        self.worse = False
        """Its address serves worse than others of its name: make another connection instead."""
        self._work: CurlRequest | None = None
        self._asked: tuple[SignedRequest, str | None] | None = None  # what URL and headers are for
        self._proxy: Proxy | None = None
        # ctypes holds no reference to the function that libcurl will call.
        self._opener = OpenSocket(self._open)
        self._easy = Easy(library)
        for option, value in {
            libcurl.NOSIGNAL: 1,
            libcurl.HTTP_VERSION: libcurl.HTTP_1_1,
            libcurl.PROTOCOLS: libcurl.HTTP_AND_HTTPS,
            # A key may contain /../.
            libcurl.PATH_AS_IS: 1,
            libcurl.SUPPRESS_CONNECT_HEADERS: 1,
            libcurl.TCP_KEEPALIVE: 1,
            libcurl.BUFFERSIZE: _BUFFER,
            libcurl.CONNECTTIMEOUT_MS: max(1, int(settings.timeout * 1000)),
            # libcurl must not read the proxy variables itself: `proxies` reads them as botocore does.
            libcurl.NOPROXY: "",
            libcurl.ERRORBUFFER: ctypes.addressof(self._says),
            libcurl.HEADERDATA: self._head.pointer,
            libcurl.OPENSOCKETFUNCTION: self._opener,
        }.items():
            self._easy.set(option, value)
        # Without CAPATH=None libcurl would also trust the folder that it was built with. A libcurl whose TLS knows no
        # folders, or that cannot speak TLS to a proxy, refuses these options and does not need them.
        for option, certified in {
            libcurl.CAPATH: None,
            libcurl.PROXY_CAINFO: settings.certificates,
            libcurl.PROXY_CAPATH: None,
            # Where `addresses` does not spread connections over those of a store's name. (From 7.60 on.)
            libcurl.DNS_SHUFFLE_ADDRESSES: 1,
        }.items():
            with contextlib.suppress(UnusableError):
                self._easy.set(option, certified)
        settings.trust.apply(self._easy)
        settings.sessions.apply(self._easy)

    def get(
        self,
        request: SignedRequest,
        span: ByteRange,
        etag: str | None,
        view: memoryview,
        cancellation: Cancellation,
    ) -> Reply:
        """Request a range; see `Transport.get`."""
        if self._asked != (request, etag):
            self._ask_for(request, etag)
        kept = self._easy.socket()
        if kept == libcurl.BAD_SOCKET and (self._proxy is None or not self._proxy.url):
            self._resolve(request.url, cancellation)
        self._easy.set(libcurl.RANGE, f"{span.start}-{span.end - 1}" if request.ranged else None)
        self._says.value = b""
        self._errno = 0
        # The text of a refusal may be longer than a short range.
        length = len(view)
        buffer = view if length >= TEXT_LIMIT else memoryview(bytearray(TEXT_LIMIT))
        work = CurlRequest(buffer, self._head, cancellation, self._timeout)
        try:
            self._easy.set(libcurl.WRITEDATA, work.body.pointer)
            self._work = work
            cancellation.landed = work.landed_so_far
            if kept != libcurl.BAD_SOCKET:
                cancellation.watch(kept)
            self._tried.clear()
            self._watcher.watch(work)
            began = time.perf_counter()
            try:
                code = self._perform(cancellation)
            finally:
                self._watcher.forget(work)
            seconds = time.perf_counter() - began
            if work.connected:
                cancellation.connect_seconds += self._easy.connect_seconds()
        finally:
            self._work = None
            work.end()
        reply = self._reply(code, request.url, span, work, buffer, length)
        if reply.landed and buffer is not view:
            view[: reply.landed] = buffer[: reply.landed]
        if self._health is not None:
            self._judge(self._health, reply, work, seconds, length)
        return reply

    def _judge(self, health: Health, reply: Reply, work: CurlRequest, seconds: float, length: int) -> None:
        """Note what the address has brought."""
        failure = None if reply.failure is None else reply.failure.failure
        stopped = work.cancellation.cut and work.failure is None
        if self._tried and not stopped:
            used = self._address = self._easy.address() if failure not in UNREACHABLE else ""
            for address in self._tried:
                # The other family is tried beside the first, and may have been no worse.
                if address != used and (not used or (":" in address) == (":" in used)):
                    health.unreachable(address)
        if failure in REFUSED or reply.status in REFUSED_STATUSES:
            self.worse = health.served(self._address, REFUSED_RATE)
            work.cancellation.elsewhere = self.worse
        elif work.landed and length >= _COMPARED:
            # Of a request that was cut since a second one was faster, too.
            self.worse = health.served(self._address, work.landed / seconds)

    def _ask_for(self, request: SignedRequest, etag: str | None) -> None:
        """Let libcurl keep what is the same for many ranges of an object."""
        self._asked = None
        self._easy.set(libcurl.URL, request.url)
        self._easy.set_headers({**request.headers, **conditions(etag)})
        proxy = self._proxies(request.url)
        if self._proxy is not proxy:
            self._go_by(proxy)
        self._asked = request, etag

    def _resolve(self, url: str, cancellation: Cancellation) -> None:
        """Let libcurl connect to an address that is known already."""
        began = time.perf_counter()
        known = self._addresses.of(url)
        cancellation.connect_seconds += time.perf_counter() - began
        if known is None:
            return
        self._health = known.health
        with contextlib.suppress(UnusableError):  # before 7.75 libcurl looks up by itself
            self._easy.set_addresses(known.setting)
            self._easy.set(libcurl.DNS_SHUFFLE_ADDRESSES, 0)  # it would shuffle these, too
        hurried = known.health is not None and known.health.hurried
        seconds = min(self._timeout, _HURRIED) if hurried else self._timeout
        self._easy.set(libcurl.CONNECTTIMEOUT_MS, max(1, int(seconds * 1000)))

    def _go_by(self, proxy: Proxy) -> None:
        self._proxy = None
        self._easy.set(libcurl.PROXY, proxy.url)
        self._easy.set(libcurl.PROXYUSERNAME, proxy.user)
        self._easy.set(libcurl.PROXYPASSWORD, proxy.password)
        self._proxy = proxy

    def close(self) -> None:
        """Close the connection, and release the handle."""
        self._easy.close()
        self._head.close()

    def _perform(self, cancellation: Cancellation) -> int:
        if threading.current_thread() is not threading.main_thread():
            return self._easy.perform()
        # Python handles Ctrl-C in the main thread only, and would wait for libcurl there.
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
            while not ended.wait(LOOK_SECONDS):
                pass
        except BaseException:
            # Wait even if Ctrl-C is pressed again: libcurl still writes into the caller's buffer.
            while not ended.is_set():
                with contextlib.suppress(KeyboardInterrupt):
                    cancellation.stop()
                    if begun.acquire(blocking=False):
                        ended.set()  # the thread has not begun, and now never will
                    ended.wait()
            raise
        return codes[0]

    def _reply(self, code: int, url: str, span: ByteRange, work: CurlRequest, buffer: memoryview, length: int) -> Reply:
        answer = last_answer(work.head_text)
        status, head = answer or (None, "")
        reply = Reply(status, headers_in(head))
        if status is not None and status >= 300:
            reply.text = bytes(buffer[: min(work.landed, TEXT_LIMIT)])
            return reply
        if status is not None and not is_wanted(reply, span, length):
            return reply
        reply.overrun = work.landed > length or (code == Code.WRITE_ERROR and work.landed == len(buffer))
        reply.landed = 0 if status is None or reply.overrun else work.landed
        if status is not None and code == Code.OK and not reply.overrun:
            return reply
        if reply.overrun:
            reply.fail(wrong_length(length + 1, length))
        elif work.failure is not None:
            reply.fail(TransportError(work.failure, "", url))
        elif code == Code.PARTIAL_FILE:
            reply.fail(wrong_length(reply.landed, length))
        else:
            errno = self._errno or self._easy.system_error()
            says = self._says.value.decode(errors="replace")
            proxy = self._proxy is not None and bool(self._proxy.url)
            reply.fail(failure_of(code, says, errno, url, proxy=proxy, proxy_status=self._easy.proxy_status()))
        return reply

    def _open(self, _: int, __: int, address: Any) -> int:
        """Open a socket for libcurl (CURLOPT_OPENSOCKETFUNCTION), and watch it before it connects."""
        work = self._work
        if work is None or work.cancellation.cut:
            return libcurl.BAD_SOCKET
        wanted = address.contents
        try:
            with socket.socket(wanted.family, wanted.kind, wanted.protocol) as made:
                work.cancellation.watch_another(made.fileno())
                descriptor = made.detach()
            if self._health is not None:
                self._tried.append(wanted.text)
        except Exception as error:
            # If this raised, ctypes would return 0 to libcurl: standard input.
            self._errno = getattr(error, "errno", None) or 0
            return libcurl.BAD_SOCKET
        work.connecting()
        return descriptor
