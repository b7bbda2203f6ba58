"""A cap on the bytes per second of all reads of a load together.

A read waits before it requests bytes, in pieces of 50 ms of the cap. Slowing down reads in flight would be too late:
the store sends until the sockets' buffers are full, megabytes for each connection, and may disconnect a slow reader.
So a capped read is several requests, or several reads of a file, one after the other. The cap applies to every kind of
source and every transport in the same way.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from runai_model_streamer.errors import InterruptedReadError, Where
from runai_model_streamer.io.source import OpenFile, Source, SourceWrapper
from runai_model_streamer.origins import Origin
from runai_model_streamer.ranges import PAGE, ByteRange, round_down

BURST: Final = 0.05
"""Seconds of the cap that one piece may use at once, and that a pause may save for later."""

_MIN_PIECE: Final = 256 << 10
"""Bytes of the smallest piece, since smaller requests cost too much. Below 5 MB/s, pieces exceed `BURST`."""


class Bandwidth:
    """The queue that all reads of a load wait in. Thread-safe.

    In any `t` seconds it admits at most the bytes of `t + BURST` seconds, plus one piece.

    Args:
        rate: bytes per second.
        clock: returns seconds that never run backwards.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.piece = round_down(max(int(rate * BURST), _MIN_PIECE), PAGE)
        """The most bytes to `take` at once. Whole pages, so that aligned reads stay aligned."""
        self._clock = clock
        self._free = clock()
        self._changed = threading.Condition()
        self._stopped = False

    def reserve(self, count: int) -> float:
        """Take the next place in the queue. Return the seconds until these `count` bytes may be requested."""
        with self._changed:
            now = self._clock()
            start = max(self._free, now - BURST)
            self._free = start + count / self.rate
            return max(start - now, 0.0)

    def take(self, count: int, interrupted: Callable[[], bool]) -> bool:
        """Wait until `count` bytes may be requested. Return False if `stop` or `interrupted` ended the wait."""
        delay = self.reserve(count)
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopped or interrupted(), delay)

    def wake(self) -> None:
        """Make all waiters check `interrupted` again."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Admit no more bytes. Idempotent. Any thread may call it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class PacedSource(SourceWrapper):
    """A source whose reads wait for the bandwidth cap; see `Source`.

    Args:
        source: the inner source; closed with this one.
        bandwidth: the cap.
        ahead: bytes from the source's start that opening it has already read. Only the first read counts them.
    """

    def __init__(self, source: Source, bandwidth: Bandwidth, ahead: int = 0) -> None:
        super().__init__(source)
        self._bandwidth = bandwidth
        self._ahead = min(ahead, source.size)
        self._lock = threading.Lock()
        self._owed = self._ahead
        self._interrupted = False

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` from `offset`, piece by piece; see `Source.read_into`."""
        for piece in self.paid(offset, len(buffer)):
            origin = self._source.read_into(piece.start, buffer[piece.start - offset : piece.end - offset])
            if piece.end == offset + len(buffer):
                return origin
        raise AssertionError("a read has one piece at least")

    def open_file(self) -> OpenFile | None:
        """Return the inner source's file, with pieces that wait for the cap."""
        file = self._source.open_file()
        return None if file is None else _PacedFile(file, self)

    def paid(self, offset: int, length: int) -> Iterator[ByteRange]:
        """Cut the range into pieces, at least one. Yield each as soon as it may be requested.

        Raises:
            InterruptedReadError: `interrupt` was called.
        """
        whole = ByteRange(offset, offset + length)
        start = offset
        with self._lock:
            owed, self._owed = self._owed, 0
        while True:
            piece = ByteRange(start, min(start + self._bandwidth.piece, whole.end))
            count = owed + max(piece.end - max(start, self._ahead), 0)
            owed = 0
            if count and not self._bandwidth.take(count, lambda: self._interrupted):
                raise InterruptedReadError(f"{whole} not read: the streamer is closing", where=Where(self.path, whole))
            yield piece
            start = piece.end
            if start == whole.end:
                return

    def interrupt(self) -> None:
        """Make reads raise `InterruptedReadError`; waiting ones do so at once. Any thread may call it."""
        self._interrupted = True
        self._bandwidth.wake()
        super().interrupt()


class _PacedFile:
    """An open file whose pieces wait for the cap; see `OpenFile`."""

    def __init__(self, file: OpenFile, source: PacedSource) -> None:
        self._file = file
        self._source = source

    def fileno(self) -> int:
        """Return the inner file's descriptor."""
        return self._file.fileno()

    def pieces(self, span: ByteRange) -> Iterable[ByteRange]:
        """Yield the pieces of the range, each as soon as the cap allows."""
        for piece in self._source.paid(span.start, span.size):
            yield from self._file.pieces(piece)

    def require_unchanged(self, span: ByteRange) -> None:
        """Ask the inner file."""
        self._file.require_unchanged(span)
