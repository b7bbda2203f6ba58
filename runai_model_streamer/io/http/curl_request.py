"""One libcurl request: where its answer goes, and how much has arrived."""

import ctypes
import re
import threading
from typing import Any, Final

from typing_extensions import override

from runai_model_streamer.io.http.failures import Failure
from runai_model_streamer.io.http.memory_stream import MemoryStream
from runai_model_streamer.io.http.progress import Progress, Watched
from runai_model_streamer.io.http.transport import Cancellation

_BLANK_LINE: Final = re.compile(r"\r?\n\r?\n")
_STATUS: Final = re.compile(r"HTTP/[\d.]+ (\d{3})")


class CurlRequest(Watched):
    """A request in flight, from before it is sent until `end`.

    Args:
        buffer: receives the body; it stays the caller's.
        head: ctypes buffer for the head of the answer; it stays the connection's.
        cancellation: cuts the request short.
        timeout: seconds until the answer must begin, and later the longest pause between two pieces of it.
    """

    def __init__(self, buffer: memoryview, head: Any, cancellation: Cancellation, timeout: float) -> None:
        self.cancellation = cancellation
        self.failure: Failure | None = None
        """Why the request was cut short."""
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
        """Note that a connection is made first. Called for each address that is tried."""
        if not self._connected:
            self._connected = True
            self._progress.connecting()

    @override
    def check(self) -> None:
        with self._lock:
            if self._window is None or self.failure is not None:
                return
            landed = self.body.written()
            self._answered = self._answered or landed > 0 or last_answer(self._read_head()) is not None
            self.failure = self._progress.check(answered=self._answered, landed=landed)
            if self.failure is not None:
                self.cancellation.stop()

    def end(self) -> None:
        """Record what arrived, and release the caller's buffer. Called when the request has ended."""
        with self._lock:
            self.landed, self.head_text = self.body.written(), self._read_head()
            self.body.close()
            self.head.close()
            # The watcher's thread may still know this request, and its owner could not release the view.
            self._window = None

    def _read_head(self) -> str:
        return ctypes.string_at(self._head_buffer, self.head.written()).decode("latin-1")


def last_answer(head: str) -> tuple[int, str] | None:
    """Return status and head of the final answer; None until the head is complete.

    It skips interim answers, such as 100 Continue, and the trailers that follow a chunked body.
    """
    for block in _BLANK_LINE.split(head)[:-1]:
        status = _STATUS.match(block)
        if status is not None and int(status[1]) >= 200:
            return int(status[1]), block
    return None
