"""What every Source promises, as tests.

Derive a class whose name begins with Test, and give it `path` and `source` fixtures; `source` reads `DATA`.
"""

import mmap
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import pytest

from runai_model_streamer.errors import InterruptedReadError, ReadError, TruncatedError
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange

SIZE: Final = 700_003
"""Bytes: some pages and a piece of one; more than what a store sends when an object is opened."""

DATA: Final = random.Random(3).randbytes(SIZE)

SPANS: Final = {
    "whole": ByteRange(0, SIZE),
    "first byte": ByteRange(0, 1),
    "last byte": ByteRange(SIZE - 1, SIZE),
    "length of a header": ByteRange(0, 8),
    "first page": ByteRange(0, PAGE),
    "pages in the middle": ByteRange(9 * PAGE, 73 * PAGE),
    "less than a page": ByteRange(5 * PAGE, 5 * PAGE + 100),
    "within a page": ByteRange(5 * PAGE + 17, 5 * PAGE + 1717),
    "bytes on both sides of a page's edge": ByteRange(7 * PAGE - 3, 7 * PAGE + 3),
    "starts on a page, ends in one": ByteRange(4 * PAGE, 40 * PAGE + 1),
    "starts in a page, ends on one": ByteRange(4 * PAGE + 1, 40 * PAGE),
    "starts and ends in pages": ByteRange(4 * PAGE + 511, 90 * PAGE + 513),
    "both sides of 256 KiB": ByteRange(200_000, 300_000),
    "beyond 256 KiB": ByteRange(300_000, 600_000),
    "pages to the end": ByteRange(100 * PAGE, SIZE),
    "last, partial page": ByteRange(SIZE - SIZE % PAGE, SIZE),
    "odd to the end": ByteRange(100 * PAGE + 7, SIZE),
}
BEYOND: Final = {
    "one byte too many": ByteRange(0, SIZE + 1),
    "the byte after the last": ByteRange(SIZE, SIZE + 1),
    "pages across the end": ByteRange(100 * PAGE, 200 * PAGE),
    "all of it beyond the end": ByteRange(300 * PAGE, 301 * PAGE),
    "far beyond 4 GiB": ByteRange(5 << 30, (5 << 30) + PAGE),
}

spans: Final = pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
spans_beyond: Final = pytest.mark.parametrize("span", BEYOND.values(), ids=BEYOND)


def make_buffer(length: int, shift: int = 0) -> memoryview:
    """`length` bytes of memory, filled with a pattern, which begin `shift` bytes after a page's start."""
    memory = mmap.mmap(-1, shift + length + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(memory)[shift : shift + length]
    view[:] = b"\xa5" * length
    return view


def read(source: Source, span: ByteRange, shift: int = 0) -> bytes:
    """The bytes of a range."""
    buffer = make_buffer(span.size, shift)
    source.read_into(span.start, buffer)
    return bytes(buffer)


def read_at(source: Source, offset: int, length: int) -> bytes:
    """The same, of a range that is not in `DATA`."""
    return read(source, ByteRange(offset, offset + length))


def data(span: ByteRange) -> bytes:
    """What `read` must return."""
    return DATA[span.start : span.end]


class SourceContract:
    """The tests; see the module."""

    kind: SourceKind

    @pytest.fixture
    def path(self) -> str:
        """The path or URL under which `DATA` lies."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, path: str) -> Source:
        """An open source of `DATA`; the fixture closes it."""
        raise NotImplementedError

    def test_it_has_the_path_as_the_user_wrote_it(self, source: Source, path: str) -> None:
        assert source.path == path

    def test_it_knows_its_kind(self, source: Source) -> None:
        assert source.kind is self.kind

    def test_its_size_is_its_number_of_bytes(self, source: Source) -> None:
        assert source.size == SIZE

    def test_its_alignment_divides_a_page(self, source: Source) -> None:
        assert source.alignment >= 1
        assert PAGE % source.alignment == 0

    def test_its_version_is_the_same_every_time(self, source: Source) -> None:
        assert source.version == source.version

    def test_an_open_file_has_the_same_bytes(self, source: Source) -> None:
        file = source.open_file()
        if file is None:
            return
        span = SPANS["pages in the middle"]
        pieces = [(piece, os.pread(file.fileno(), piece.size, piece.start)) for piece in file.pieces(span)]
        assert [piece.start for piece, _ in pieces[1:]] == [piece.end for piece, _ in pieces[:-1]]
        assert b"".join(found for _, found in pieces) == data(span)
        file.require_unchanged(span)

    def test_skipping_verification_twice_is_harmless_and_ends_it(self, source: Source) -> None:
        source.skip_verification()
        source.skip_verification()
        assert source.verified_by is None
        assert not source.in_order
        assert read(source, SPANS["whole"]) == DATA

    @spans
    def test_a_read_fills_the_buffer_with_the_bytes_of_its_range(self, source: Source, span: ByteRange) -> None:
        assert read(source, span) == data(span)

    @pytest.mark.parametrize("shift", [1, 64, 512])
    def test_a_buffer_may_lie_anywhere_in_memory(self, source: Source, shift: int) -> None:
        assert read(source, SPANS["whole"], shift) == DATA

    @spans
    def test_a_read_writes_nothing_beside_the_buffer(self, source: Source, span: ByteRange) -> None:
        margin = 2 * PAGE
        memory = make_buffer(span.size + 2 * margin)
        source.read_into(span.start, memory[margin : margin + span.size])
        assert bytes(memory[:margin]) == b"\xa5" * margin
        assert bytes(memory[margin + span.size :]) == b"\xa5" * margin

    def test_a_read_says_where_the_bytes_came_from(self, source: Source) -> None:
        origin = source.read_into(0, make_buffer(16 * PAGE))
        assert (origin is Origin.OBJECT) == (self.kind is SourceKind.OBJECT)
        assert origin in Origin

    def test_it_tells_where_a_read_would_come_from(self, source: Source) -> None:
        told = source.origin(0, 16 * PAGE)
        assert source.read_into(0, make_buffer(16 * PAGE)) is told

    def test_a_read_keeps_nothing_of_the_buffer(self, source: Source) -> None:
        memory = bytearray(100 * PAGE)
        with memoryview(memory) as buffer:
            source.read_into(0, buffer)
        memory.clear()  # refused while anybody holds a view of it

    def test_a_range_can_be_read_twice(self, source: Source) -> None:
        span = SPANS["both sides of 256 KiB"]
        assert read(source, span) == read(source, span) == data(span)

    def test_ranges_can_be_read_from_the_last_to_the_first(self, source: Source) -> None:
        cuts = range(0, SIZE, 100_000)
        ranges = [ByteRange(start, min(start + 100_000, SIZE)) for start in cuts]
        assert b"".join(reversed([read(source, span) for span in reversed(ranges)])) == DATA

    @pytest.mark.parametrize("offset", [0, 1, PAGE, SIZE])
    def test_an_empty_buffer_is_full_at_once(self, source: Source, offset: int) -> None:
        memory = make_buffer(2 * PAGE)
        source.read_into(offset, memory[PAGE:PAGE])
        assert bytes(memory) == b"\xa5" * len(memory)

    @spans_beyond
    def test_a_read_past_the_end_is_refused(self, source: Source, span: ByteRange) -> None:
        with pytest.raises(TruncatedError):
            read(source, span)

    @spans_beyond
    def test_a_read_past_the_end_names_the_path(self, source: Source, span: ByteRange, path: str) -> None:
        with pytest.raises(ReadError) as caught:
            read(source, span)
        assert path in str(caught.value)

    def test_a_read_past_the_end_names_the_range(self, source: Source) -> None:
        with pytest.raises(ReadError, match=f"bytes {SIZE - 10}-{SIZE + 5}\\b"):
            read(source, ByteRange(SIZE - 10, SIZE + 5))

    def test_it_can_be_read_after_a_read_was_refused(self, source: Source) -> None:
        with pytest.raises(TruncatedError):
            read(source, ByteRange(SIZE, SIZE + 1))
        assert read(source, SPANS["whole"]) == DATA

    def test_sixteen_threads_at_once_each_get_their_bytes(self, source: Source) -> None:
        ready = threading.Barrier(16)

        def work(number: int) -> Sequence[ByteRange]:
            choice = random.Random(number)
            ready.wait()
            wrong = []
            for _ in range(8):
                start = choice.randrange(SIZE) // PAGE * PAGE + choice.choice((0, 0, 1, 8))
                span = ByteRange(min(start, SIZE), min(start + choice.randrange(1, 200_000), SIZE))
                if read(source, span) != data(span):
                    wrong.append(span)
            return wrong

        with ThreadPoolExecutor(16) as threads:
            assert [span for wrong in threads.map(work, range(16)) for span in wrong] == []

    def test_closing_it_twice_is_harmless(self, source: Source) -> None:
        source.close()
        source.close()

    def test_it_can_be_closed_unread(self, source: Source) -> None:
        source.close()

    def test_interrupting_it_twice_is_harmless(self, source: Source) -> None:
        source.interrupt()
        source.interrupt()

    def test_interrupting_it_after_it_was_closed_is_harmless(self, source: Source) -> None:
        source.close()
        source.interrupt()

    def test_a_read_after_an_interrupt_is_right_or_refused(self, source: Source) -> None:
        source.interrupt()
        span = SPANS["beyond 256 KiB"]
        with suppress(InterruptedReadError):
            assert read(source, span) == data(span)
