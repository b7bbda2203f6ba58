"""Byte ranges: half-open, frozen, and the pure arithmetic on them."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

PAGE: Final = 4096
"""Bytes; direct reads start, end and land on multiples of it (the largest block size of common file systems)."""


class ByteRange(NamedTuple):
    """The bytes `start <= i < end` of a file or object."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"bytes {self.start}-{self.end}"


def round_down(value: int, multiple: int) -> int:
    """The largest multiple of `multiple` that is at most `value`."""
    return value - value % multiple


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def widen(span: ByteRange, alignment: int, size: int) -> ByteRange:
    """`span` with both ends moved outwards to multiples of `alignment`, but not past `size`."""
    return ByteRange(round_down(span.start, alignment), min(round_up(span.end, alignment), size))


def split(span: ByteRange, chunk: int, alignment: int = 1) -> Iterator[ByteRange]:
    """Cut `span` into the fewest ranges of at most `chunk` bytes, as equal as whole `alignment`s allow.

    `chunk` is a multiple of `alignment`, so that cuts of an aligned range stay aligned. Nothing for an empty range.
    """
    if not span.size:
        return
    count = -(-span.size // chunk)
    piece = round_up(-(-span.size // count), alignment)
    for start in range(span.start, span.end, piece):
        yield ByteRange(start, min(start + piece, span.end))


def coalesce(spans: Iterable[ByteRange], gap: int) -> list[ByteRange]:
    """Join ranges, given in ascending order, that are at most `gap` bytes apart.

    The bytes of a bridged gap are read and thrown away, so `gap` is what one more read costs, in bytes.
    Overlapping ranges are joined too; empty ones vanish.
    """
    joined: list[ByteRange] = []
    for span in spans:
        if span.start >= span.end:
            continue
        if joined and span.start - joined[-1].end <= gap:
            joined[-1] = ByteRange(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(ByteRange(*span))
    return joined
