"""One libcurl request: where its answer goes, by C streams over Python's memory, and how much has arrived."""

import ctypes
import re
import threading
from typing import Any, Final

from typing_extensions import override

from runai_model_streamer.io.http.failures import Failure
from runai_model_streamer.io.http.progress import Progress, Watched
from runai_model_streamer.io.http.transport import Cancellation
from runai_model_streamer.io.libc import libc

_UNBUFFERED: Final = 2
_BLANK_LINE: Final = re.compile(r"\r?\n\r?\n")
_STATUS: Final = re.compile(r"HTTP/[\d.]+ (\d{3})")


class CurlRequest(Watched):
    """A request in flight, from before it is sent until `end`.

    Args:
        buffer: receives the body; it stays the caller's.
        head: receives the head of the answer; it stays the connection's.
        cancellation: cuts the request short.
        timeout: seconds until the answer must begin, and later the longest pause between two pieces of it.
    """

    def __init__(self, buffer: memoryview, head: "MemoryStream", cancellation: Cancellation, timeout: float) -> None:
        self.cancellation = cancellation
        self.failure: Failure | None = None
        """Why the request was cut short."""
        self.landed = 0
        self.head_text = ""
        self._head = head
        head.rewind()
        self._progress = Progress(timeout)
        self.connected = False
        """Whether a connection was made for it, or tried."""
        self._answered = False
        self._lock = threading.Lock()
        self._window: Any = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self.body = MemoryStream(ctypes.addressof(self._window), len(buffer))

    def connecting(self) -> None:
        """Note that a connection is made first. Called for each address that is tried."""
        if not self.connected:
            self.connected = True
            self._progress.connecting()

    @override
    def check(self) -> None:
        with self._lock:
            if self._window is None or self.failure is not None:
                return
            landed = self.body.written()
            self._answered = self._answered or landed > 0 or last_answer(self._head.text()) is not None
            self.failure = self._progress.check(answered=self._answered, landed=landed)
            if self.failure is not None:
                self.cancellation.stop()

    def landed_so_far(self) -> int:
        """Return how many bytes of the body have landed. From any thread."""
        with self._lock:
            return self.landed if self._window is None else self.body.written()

    def end(self) -> None:
        """Record what arrived, and release the caller's buffer. Called when the request has ended."""
        with self._lock:
            self.landed, self.head_text = self.body.written(), self._head.text()
            self.body.close()
            # The watcher's thread may still know this request, and its owner could not release the view.
            self._window = None


def last_answer(head: str) -> tuple[int, str] | None:
    """Return status and head of the final answer; None until the head is complete.

    It skips interim answers, such as 100 Continue, and the trailers that follow a chunked body.
    """
    # Nearly always it is the only one. To split takes 13 microseconds, this a quarter of that.
    only = head.endswith("\r\n\r\n") and head.find("\n\r\n") == len(head) - 3 and "\n\n" not in head
    for block in (head[:-4],) if only else _BLANK_LINE.split(head)[:-1]:
        status = _STATUS.match(block)
        if status is not None and int(status[1]) >= 200:
            return int(status[1]), block
    return None


class MemoryStream:
    """A `FILE *` over memory. A write beyond the end fails.

    The memory stays the caller's, and must outlive the stream. The stream appends no final zero. Any thread may call
    `written` while another one writes.
    """

    def __init__(self, address: int, size: int) -> None:
        """Open a stream over `size` bytes at `address`; `size` is at least 1."""
        self.size = size
        self._address = address
        # The C library searches the memory for a zero when it opens it: put one first.
        ctypes.memset(address, 0, 1)
        self.pointer: int | None = _open(address, size, b"r+")
        if not self.pointer:
            raise OSError(ctypes.get_errno(), "fmemopen failed")
        _set_buffer(self.pointer, None, _UNBUFFERED, 0)

    def written(self) -> int:
        """Return how many bytes were written; a write in progress does not count yet."""
        position: int = _tell(self.pointer)
        return position

    def rewind(self) -> None:
        """Write from the start again."""
        _seek(self.pointer, 0, 0)

    def text(self) -> str:
        """Return what was written, as the characters of HTTP's heads."""
        return ctypes.string_at(self._address, self.written()).decode("latin-1")

    def close(self) -> None:
        """Release the memory. Idempotent."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            _close(pointer)


_open: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)(
    ("fmemopen", libc())
)
_set_buffer: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)(
    ("setvbuf", libc())
)
_tell: Final = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(("ftell", libc()))
_seek: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_long, ctypes.c_int)(("fseek", libc()))
_close: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("fclose", libc()))
