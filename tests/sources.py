"""A source that lives in memory: the one fake that tests of everything above `io` stand on."""

import threading
from collections.abc import Sequence

from runai_model_streamer.errors import InterruptedReadError, TruncatedError
from runai_model_streamer.io.source import OpenFile
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange


class MemorySource:
    """`data` as a file or object of the given path. Records each read; implements the `Source` protocol."""

    def __init__(
        self,
        path: str,
        data: bytes,
        *,
        alignment: int = 1,
        kind: SourceKind = SourceKind.FILE,
        size: int | None = None,
    ) -> None:
        """`size`: what the source says it holds, where that is to differ from what it holds."""
        self._path = path
        self._data = memoryview(data)
        self._alignment = alignment
        self._kind = kind
        self._size = len(data) if size is None else size
        self._lock = threading.Lock()
        self._interrupted = threading.Event()
        self.reads: list[tuple[int, int]] = []
        """(offset, length) of each read, in the order they began."""
        self.closed = 0
        """How often `close` was called."""

    @property
    def path(self) -> str:
        return self._path

    @property
    def kind(self) -> SourceKind:
        return self._kind

    @property
    def size(self) -> int:
        return self._size

    @property
    def alignment(self) -> int:
        return self._alignment

    @property
    def local(self) -> Sequence[ByteRange] | None:
        return None

    @property
    def streams(self) -> int | None:
        return None

    @property
    def way(self) -> str | None:
        return None

    @property
    def version(self) -> str | None:
        return None

    @property
    def verified_by(self) -> str | None:
        return None

    @property
    def in_order(self) -> bool:
        return False

    def skip_verification(self) -> None:
        pass

    def open_file(self) -> OpenFile | None:
        return None

    def origin(self, offset: int, length: int) -> Origin:
        return Origin.BUFFERED if self._kind is SourceKind.FILE else Origin.OBJECT

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if self.closed:
            raise AssertionError(f"{self._path} was read after it was closed")
        with self._lock:
            self.reads.append((offset, len(buffer)))
        if self._interrupted.is_set():
            raise InterruptedReadError(f"{self._path}: interrupted")
        found = self._data[offset : offset + len(buffer)]
        if len(found) < len(buffer):
            raise TruncatedError(f"{self._path}: bytes {offset}-{offset + len(buffer)}: ends after {len(self._data)}")
        buffer[:] = found
        return self.origin(offset, len(buffer))

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self.closed += 1
