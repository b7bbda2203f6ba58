"""One request of libcurl's: where its answer goes, and how far it has come."""

import ctypes
import re
import threading
from typing import Any, Final

from runai_model_streamer.io.http.failures import Failure
from runai_model_streamer.io.http.memory_stream import MemoryStream
from runai_model_streamer.io.http.progress import Progress
from runai_model_streamer.io.http.transport import Cancellation

_BLANK_LINE: Final = re.compile(r"\r?\n\r?\n")
_STATUS: Final = re.compile(r"HTTP/[\d.]+ (\d{3})")


class CurlRequest:
    """A request at work, from before it is made until `end`.

    Args:
        buffer: where the body goes; the caller's.
        head: where the head of the answer goes; of ctypes, and the connection's.
        cancellation: ends the request.
        timeout: seconds in which the answer has to begin, and then in which bytes have to come.
    """

    def __init__(self, buffer: memoryview, head: Any, cancellation: Cancellation, timeout: float) -> None:
        self.buffer = buffer
        self.cancellation = cancellation
        self.failure: Failure | None = None
        """Why it was ended early."""
        self.landed = 0
        self.head_text = ""
        self._head_buffer = head
        self._progress = Progress(timeout)
        self._connected = False
        self._answered = False
        self._lock = threading.Lock()
        self._window: Any = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self.body = MemoryStream(ctypes.addressof(self._window), len(buffer))
        self.head = MemoryStream(ctypes.addressof(head), len(head))

    def connecting(self) -> None:
        """A connection is made first; called for each address that is tried."""
        if not self._connected:
            self._connected = True
            self._progress.connecting()

    def check(self) -> None:
        """See `Watched.check`."""
        with self._lock:
            if self._window is None or self.failure is not None:
                return
            landed = self.body.written()
            self._answered = self._answered or landed > 0 or last_answer(self._read_head()) is not None
            self.failure = self._progress.check(answered=self._answered, landed=landed)
            if self.failure is not None:
                self.cancellation.stop()

    def end(self) -> None:
        """The request has ended: keep what came, and hold the caller's buffer no longer."""
        with self._lock:
            self.landed, self.head_text = self.body.written(), self._read_head()
            self.body.close()
            self.head.close()
            # The view's owner could not release it while this lived.
            self._window = None

    def _read_head(self) -> str:
        return ctypes.string_at(self._head_buffer, self.head.written()).decode("latin-1")


def last_answer(head: str) -> tuple[int, str] | None:
    """Status and head of the answer after those that only announce it, such as 100 Continue; None before it is whole.

    Trailers of a body in chunks, which come after it, do not count.
    """
    for block in _BLANK_LINE.split(head)[:-1]:
        status = _STATUS.match(block)
        if status is not None and int(status[1]) >= 200:
            return int(status[1]), block
    return None
