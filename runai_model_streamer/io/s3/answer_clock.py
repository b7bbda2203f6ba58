"""Sets a time limit for the head of an answer and a minimum speed for its body, on botocore's connections.

A socket's timeout bounds each wait, not their sum: a server that sends a line now and then could hold a request for
ever. The libcurl transport has the same limits.
"""

import http.client
import io
import socket
import time
from typing import Any

from typing_extensions import override

from runai_model_streamer.io.http.transport import Window


class ClockedResponse(http.client.HTTPResponse):
    """An answer whose head must arrive within the socket's timeout, and so must its trailers."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._clock = _Clocked(self.fp.detach(), sock)
        self.fp = _Lines(self._clock)

    @override
    def begin(self) -> None:
        super().begin()
        self._clock.begin_body()

    def _read_and_discard_trailer(self) -> None:
        self._clock.begin_head()
        read: Any = super()._read_and_discard_trailer  # type: ignore[misc]  # the only hook between body and trailers
        read()


class _Clocked(io.RawIOBase):
    """The bytes of a socket, with time limits."""

    def __init__(self, inner: io.RawIOBase, sock: socket.socket) -> None:
        self._inner = inner
        self._sock = sock
        self._timeout = sock.gettimeout()
        self._deadline: float | None = None
        self._window: Window | None = None
        self._count = 0
        self.begin_head()

    def begin_head(self) -> None:
        """Require that what follows is complete within the timeout."""
        if self._timeout is not None:
            self._deadline, self._window = time.monotonic() + self._timeout, None

    def begin_body(self) -> None:
        """Require the minimum speed from now on."""
        if self._timeout is not None:
            self._deadline, self._window = None, Window(self._timeout)
            self._count = 0
            self._sock.settimeout(self._timeout)

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int | None:
        """Read once.

        Raises:
            TimeoutError: nothing arrived within the timeout, or the head is not complete in time.
            TransportError: the body is too slow.
        """
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the head of the answer does not end")
            self._sock.settimeout(left)
        count: int | None = self._inner.readinto(buffer)
        if self._window is not None:
            self._count += count or 0
            self._window.check(self._count)
        return count

    @override
    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            super().close()


class _Lines(io.BufferedReader):
    """Lines that end at a line feed only. Python's header parser would also end one at a carriage return."""

    @override
    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line, and replace carriage returns within it by blanks."""
        line = super().readline(size)
        text = line.rstrip(b"\r\n")
        return text.replace(b"\r", b" ") + line[len(text) :]
