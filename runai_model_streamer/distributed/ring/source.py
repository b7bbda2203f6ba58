"""A source of which some bytes come through the ring, and others are read by this rank for itself."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.origins import Origin, SourceKind

_WAITED_FOR: Final = {SourceKind.FILE: Origin.DISK, SourceKind.OBJECT: Origin.OBJECT}
"""What reads of shared bytes are said to be: all readers take part, since most wait for other ranks, not for a CPU."""

_FARTHEST: Final = (Origin.RANK, Origin.OBJECT, Origin.DISK, Origin.BUFFERED, Origin.PAGE_CACHE)


class Span(NamedTuple):
    """Consecutive bytes of a file that come in the same way."""

    offset: int
    end: int
    block: int | None
    """Number of the block of the ring; None: this rank reads them for itself."""


class SharedSource(SourceWrapper):
    """One file or object of a shared load; see `Source`. What is read has been planned (`division.Division`).

    Args:
        source: this rank's own way to the file.
        spans: of all that this rank is going to read of it, in file order.
        copy: copies bytes of a block, from a place in it on, and says where they came from. It waits for them.
        start: called before each read.
        count: called with the bytes that this rank has read for itself.
        idle: whether nothing reads from `source` but its reader threads: else it is not closed.
    """

    def __init__(
        self,
        source: Source,
        spans: Sequence[Span],
        copy: Callable[[int, int, memoryview], Origin],
        start: Callable[[], None],
        count: Callable[[int], None],
        idle: Callable[[], bool],
    ) -> None:
        super().__init__(source)
        source.skip_verification()  # this rank reads only a part of the bytes from it
        self.streams = None  # readers that wait for other ranks keep no storage busy
        self._spans = spans
        self._offsets = [span.offset for span in spans]
        self._copy, self._start, self._count, self._idle = copy, start, count, idle

    def origin(self, offset: int, length: int) -> Origin:
        """As if bytes that come through the ring were this rank's own reads."""
        if self._spans[self._index(offset)].block is None:
            return self._source.origin(offset, length)
        return _WAITED_FOR[self.kind]

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer: out of the ring, and from storage what this rank reads for itself.

        Raises:
            DistributedError: another rank failed, died, ended early, or stands still.
            StreamerError: what `Source.read_into` raises, here or in a read for the others.
        """
        self._start()
        end, position = offset + len(buffer), offset
        origins = set()
        for index in range(self._index(offset), len(self._spans)):
            span = self._spans[index]
            piece = buffer[position - offset : min(span.end, end) - offset]
            if span.block is None:
                origins.add(self._source.read_into(position, piece))
                self._count(len(piece))
            else:
                origins.add(self._copy(span.block, position - span.offset, piece))
            position += len(piece)
            if position == end:
                break
        return next(origin for origin in _FARTHEST if origin in origins)

    def _index(self, offset: int) -> int:
        return max(bisect_right(self._offsets, offset) - 1, 0)

    def close(self) -> None:
        """Close the inner source, unless a read for other ranks hangs in it: it goes when that ends."""
        if self._idle():
            super().close()
