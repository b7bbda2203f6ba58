"""The pieces of an object that a cache has. Pure: no I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from runai_model_streamer.ranges import PAGE, ByteRange, round_down, round_up


class Piece(NamedTuple):
    """Bytes that were written to the cache together."""

    start: int
    end: int
    checksum: int


class Run(NamedTuple):
    """Part of a range, all of which the cache has, or none."""

    start: int
    end: int
    held: bool


class Extents:
    """Pieces in order, none of which overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: dict[int, Piece] = {}
        self.bytes = 0
        """Bytes of all pieces."""

    def add(self, piece: Piece) -> bool:
        """Add a piece. Return False if it was left out, since pieces that are here reach beyond it.

        Of one version of an object, two writers write the same bytes. Pieces that lie within the new one go.
        """
        near = self.within(piece.start, piece.end)
        if any(other.start < piece.start or other.end > piece.end for other in near):
            return False
        for other in near:
            self.remove(other)
        self._starts.insert(bisect_left(self._starts, piece.start), piece.start)
        self._pieces[piece.start] = piece
        self.bytes += piece.end - piece.start
        return True

    def remove(self, piece: Piece) -> None:
        """Remove a piece; nothing if it is not here."""
        if self._pieces.get(piece.start) == piece:
            del self._pieces[piece.start]
            del self._starts[bisect_left(self._starts, piece.start)]
            self.bytes -= piece.end - piece.start

    def named(self, start: int, end: int) -> Piece | None:
        """Return the piece with these ends; None if there is none."""
        piece = self._pieces.get(start)
        return piece if piece is not None and piece.end == end else None

    def within(self, start: int, end: int) -> list[Piece]:
        """Return the pieces that have bytes in a range."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        found = (self._pieces[each] for each in self._starts[first : bisect_left(self._starts, end)])
        return [piece for piece in found if piece.end > start]

    def runs(self, span: ByteRange) -> Iterator[Run]:
        """Divide a range into what is here, and what is not."""
        position, begin = span.start, span.start
        for piece in self.within(span.start, span.end):
            if piece.start > position:
                if position > begin:
                    yield Run(begin, position, held=True)
                yield Run(position, piece.start, held=False)
                begin = piece.start
            position = min(piece.end, span.end)
        if position > begin:
            yield Run(begin, position, held=True)
        if span.end > position:
            yield Run(position, span.end, held=False)

    def has(self, start: int, end: int) -> bool:
        """Return whether all bytes of a range are here."""
        return all(run.held for run in self.runs(ByteRange(start, end)))

    def __iter__(self) -> Iterator[Piece]:
        """Iterate over the pieces, in order."""
        return iter([self._pieces[start] for start in self._starts])

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._starts)


def cut(span: ByteRange, longest: int) -> Iterator[ByteRange]:
    """Cut what one read has fetched into whole pages, so that the same read by a later load takes whole pieces."""
    each = round_up(-(-span.size // -(-span.size // longest)), PAGE)
    start = span.start
    while start < span.end:
        end = min(round_down(start + each, PAGE), span.end) if start + each < span.end else span.end
        yield ByteRange(start, end)
        start = end
