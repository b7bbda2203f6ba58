"""A source that takes shared bytes from the ring, and reads the others itself."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from typing_extensions import override

from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.origins import Origin, SourceKind

_WAITED_FOR: Final = {SourceKind.FILE: Origin.DISK, SourceKind.OBJECT: Origin.OBJECT}
"""The origin expected of shared bytes. All readers take part, since most wait for other ranks, not for a CPU."""

_FARTHEST: Final = (Origin.RANK, Origin.OBJECT, Origin.DISK, Origin.BUFFERED, Origin.PAGE_CACHE)


class Span(NamedTuple):
    """Consecutive bytes of a file that come to this rank in the same way."""

    offset: int
    end: int
    block: int | None
    """Number of the block of the ring; None if this rank reads the bytes itself."""


class SharedSource(SourceWrapper):
    """One file or object of a shared load, as a `Source`. Only planned ranges are read (`division.Division`).

    Args:
        source: opened by this rank.
        spans: all that this rank will read of it, in file order.
        copy: waits for a block, copies its bytes from an offset on, and returns where they came from.
        start: called before each read.
        count: called with the origin and the number of bytes of each piece, and whether it was read for this rank
            alone.
        idle: whether only this load's reader threads read from `source`. If not, it is not closed.
    """

    def __init__(
        self,
        source: Source,
        spans: Sequence[Span],
        copy: Callable[[int, int, memoryview], Origin],
        start: Callable[[], None],
        count: Callable[[Origin, int, bool], None],
        idle: Callable[[], bool],
    ) -> None:
        super().__init__(source)
        source.skip_verification()  # this rank reads only a part of the bytes from it
        self.streams = None  # readers that wait for other ranks keep no storage busy
        self._spans = spans
        self._offsets = [span.offset for span in spans]
        self._copy, self._start, self._count, self._idle = copy, start, count, idle

    @override
    def origin(self, offset: int, length: int) -> Origin:
        """Return where the bytes will come from. Shared bytes count as reads from storage."""
        if self._spans[self._index(offset)].block is None:
            return self._source.origin(offset, length)
        return _WAITED_FOR[self.kind]

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer, from the ring and from storage.

        Returns:
            The origin of the bytes; of several, the most distant.

        Raises:
            DistributedError: another rank failed, died, ended early, or hangs.
            StreamerError: raised by `Source.read_into`, here or in a read for the others.
        """
        self._start()
        end, position = offset + len(buffer), offset
        origins = set()
        for index in range(self._index(offset), len(self._spans)):
            span = self._spans[index]
            piece = buffer[position - offset : min(span.end, end) - offset]
            alone = span.block is None
            if span.block is None:
                origin = self._source.read_into(position, piece)
            else:
                origin = self._copy(span.block, position - span.offset, piece)
            self._count(origin, len(piece), alone)
            origins.add(origin)
            position += len(piece)
            if position == end:
                break
        return next(origin for origin in _FARTHEST if origin in origins)

    def _index(self, offset: int) -> int:
        return max(bisect_right(self._offsets, offset) - 1, 0)

    @override
    def close(self) -> None:
        """Close the inner source, unless a read for other ranks hangs in it. Then it goes when that ends."""
        if self._idle():
            super().close()
