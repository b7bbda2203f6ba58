"""Scratch memory: a fixed number of pieces that readers fill and empty again at once."""

import contextlib
import threading
from collections.abc import Iterator

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.memory.slabs import Slab
from runai_model_streamer.threads.forks import keep_in_children


class ScratchPool:
    """Page-aligned pieces of memory of one size, allocated on first use. The last one used is lent first.

    Args:
        size: bytes of each piece, whole pages.
        count: the most pieces.
        lifecycle: the load's; its end ends a wait for a piece.
    """

    def __init__(self, size: int, count: int, lifecycle: Lifecycle) -> None:
        self._size = size
        self._unmade = count
        self._lifecycle = lifecycle
        self._changed = threading.Condition()
        self._free: list[Slab] = []
        self._made: list[Slab] = []
        lifecycle.on_stop(self._wake)
        keep_in_children(self)

    @contextlib.contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Lend a piece for the duration of the context.

        Raises:
            Stopped: the load has ended.
            OutOfMemoryError: the operating system has no more memory.
        """
        piece = self._take()
        try:
            yield piece.memory()
        finally:
            with self._changed:
                self._free.append(piece)
                self._changed.notify()

    def _take(self) -> Slab:
        with self._changed:
            while not self._free and not self._unmade:
                self._lifecycle.check()
                self._changed.wait()
            self._lifecycle.check()
            if self._free:
                return self._free.pop()
            self._unmade -= 1
            try:
                piece = Slab(self._size)
            except (OSError, MemoryError) as error:
                raise OutOfMemoryError(
                    f"no memory for {self._size} bytes to cast from", remedy="set RUNAI_STREAMER_MEMORY_LIMIT", sep=": "
                ) from error
            # Direct reads fill it: see `Slab.hide_from_children`.
            piece.hide_from_children(True)
            self._made.append(piece)
            return piece

    def close(self) -> None:
        """Free the pieces that are not lent."""
        with self._changed:
            self._free.clear()
            self._made.clear()

    def missing_in_children(self) -> list[Slab]:
        """Return all pieces: they are hidden from forked children."""
        return list(self._made)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
