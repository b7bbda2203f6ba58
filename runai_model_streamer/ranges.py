"""Byte ranges: half-open, frozen, and the pure arithmetic on them."""

from collections.abc import Iterator
from typing import Final, NamedTuple

PAGE: Final = 4096
"""Bytes; direct reads start, end and land on multiples of it (the largest block size of common file systems)."""

HUGE_PAGE: Final = 2 << 20
"""Bytes of a transparent huge page on x86-64 and, with 4 KiB pages, on arm64."""


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


def split(span: ByteRange, chunk: int) -> Iterator[ByteRange]:
    """Cut `span` at the multiples of `chunk` that lie in it; one that is no longer than a chunk stays whole.

    Nothing for an empty range.
    """
    start = span.start
    if span.size > chunk:
        for cut in range(round_up(start + 1, chunk), span.end, chunk):
            yield ByteRange(start, cut)
            start = cut
    if start < span.end:
        yield ByteRange(start, span.end)
