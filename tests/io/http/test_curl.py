"""What stands between libcurl and the buffer: streams over memory, heads of answers, and the clock."""

import ctypes
import threading

import pytest

from runai_model_streamer.io.http.curl.request import CurlRequest, MemoryStream, last_answer
from runai_model_streamer.io.http.failures import Failure
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.progress import Progress, Watcher
from runai_model_streamer.io.libc import libc
from tests.checkpoints import PATIENCE


def write(stream: MemoryStream, data: bytes) -> int:
    """As libcurl does."""
    function = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)(
        ("fwrite", libc())
    )
    written: int = function(data, 1, len(data), stream.pointer)
    return written


class TestMemoryStream:
    @pytest.mark.parametrize("before", [b"\xa5", b"\0"])
    def test_it_holds_what_is_written_and_nothing_else(self, before: bytes) -> None:
        memory = ctypes.create_string_buffer(before * 100, 100)
        stream = MemoryStream(ctypes.addressof(memory), 50)
        assert (write(stream, b"abc"), write(stream, b"de\0f")) == (3, 4)
        assert stream.written() == 7
        stream.close()
        assert memory.raw == b"abcde\0f" + before * 93

    def test_it_can_be_filled_to_its_last_byte(self) -> None:
        memory = ctypes.create_string_buffer(b"\xa5" * 8, 8)
        stream = MemoryStream(ctypes.addressof(memory), 7)
        assert write(stream, b"1234567") == 7
        stream.close()
        assert memory.raw == b"1234567\xa5"

    def test_what_is_beyond_its_end_is_refused(self) -> None:
        memory = ctypes.create_string_buffer(b"\xa5" * 8, 8)
        stream = MemoryStream(ctypes.addressof(memory), 4)
        assert write(stream, b"1234567") < 7
        assert stream.written() == 4
        stream.close()
        assert memory.raw == b"1234\xa5\xa5\xa5\xa5"

    def test_it_can_be_closed_twice(self) -> None:
        memory = ctypes.create_string_buffer(8)
        stream = MemoryStream(ctypes.addressof(memory), 8)
        stream.close()
        stream.close()


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        ("HTTP/1.1 206 P\r\nA: b\r\n\r\n", (206, "HTTP/1.1 206 P\r\nA: b")),
        ("HTTP/1.1 206 P\nA: b\n\n", (206, "HTTP/1.1 206 P\nA: b")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", (200, "HTTP/1.1 200 OK")),
        ("HTTP/1.1 206 P\r\n\r\nX-Trailer: a\r\n\r\n", (206, "HTTP/1.1 206 P")),
        ("HTTP/1.1 206 P\r\n\r\nHTTP/1.1 500 a trailer\r\n\r\n", (206, "HTTP/1.1 206 P")),
        ("HTTP/1.1 206 P\r\nA: b\r\n", None),
        ("HTTP/1.1 100 Continue\r\n\r\n", None),
        ("", None),
    ],
)
def test_the_answer_is_the_one_that_does_not_only_announce_it(head: str, answer: tuple[int, str] | None) -> None:
    assert last_answer(head) == answer


class TestProgress:
    now = 0.0

    def clock(self) -> float:
        return self.now

    def test_an_answer_has_to_begin_within_the_timeout(self) -> None:
        progress = Progress(10.0, self.clock)
        self.now = 9.9
        assert progress.check(answered=False, landed=0) is None
        self.now = 10.0
        assert progress.check(answered=False, landed=0) is Failure.STALLED

    def test_connecting_has_a_limit_of_its_own(self) -> None:
        progress = Progress(10.0, self.clock)
        progress.connecting()
        self.now = 19.9
        assert progress.check(answered=False, landed=0) is None
        self.now = 20.0
        assert progress.check(answered=False, landed=0) is Failure.STALLED

    def test_bytes_have_to_come_within_the_timeout(self) -> None:
        progress = Progress(10.0, self.clock)
        for second in (1, 9, 18, 27):
            self.now = second
            assert progress.check(answered=True, landed=second * 1_000_000) is None
        self.now = 36.9
        assert progress.check(answered=True, landed=27_000_000) is None
        self.now = 37.0
        assert progress.check(answered=True, landed=27_000_000) is Failure.STALLED

    def test_bytes_have_to_have_the_least_speed(self) -> None:
        progress = Progress(10.0, self.clock)
        for second in range(100):
            self.now = second
            assert progress.check(answered=True, landed=second * 1024) is None
        found = None
        for second in range(100, 121):
            self.now = second
            found = found or progress.check(answered=True, landed=99 * 1024 + second)
        assert found is Failure.SLOW


class TestWatcher:
    def test_it_looks_at_requests_at_work_and_ends_with_the_last(self) -> None:
        looked = threading.Semaphore(0)

        class Request:
            def check(self) -> None:
                looked.release()

        watcher = Watcher(0.01)
        watcher.watch(request := Request())
        for _ in range(3):
            assert looked.acquire(timeout=PATIENCE)
        watcher.forget(request)
        watcher.close()
        assert "runai-curl-watch" not in [thread.name for thread in threading.enumerate()]

    def test_it_begins_again_after_it_has_ended(self) -> None:
        looked = threading.Semaphore(0)

        class Request:
            def check(self) -> None:
                looked.release()

        watcher = Watcher(0.01)
        for _ in range(2):
            watcher.watch(request := Request())
            assert looked.acquire(timeout=PATIENCE)
            watcher.forget(request)
            for thread in threading.enumerate():
                if thread.name == "runai-curl-watch":
                    thread.join(PATIENCE)
        watcher.close()


def test_a_request_that_has_ended_keeps_nothing_of_the_buffer() -> None:
    # The watcher's thread knows a request until its next look.
    memory, text = bytearray(100), ctypes.create_string_buffer(100)
    head = MemoryStream(ctypes.addressof(text), 100)
    request = CurlRequest(memoryview(memory)[:50], head, Flight(), 1.0)
    request.end()
    memory.clear()  # refused while anybody holds a view of it
    request.check()
    head.close()
