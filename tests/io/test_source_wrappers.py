"""Wrapped sources, each wrapper around each other: what a caller asks for comes through in any order."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

import pytest

from runai_model_streamer.distributed.headers import TapedSource
from runai_model_streamer.distributed.ring.source import SharedSource, Span
from runai_model_streamer.errors import ChecksumError, InterruptedReadError
from runai_model_streamer.io.bandwidth import Bandwidth, PacedSource
from runai_model_streamer.io.checksums import Checksum, VerifiedSource
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange
from tests.io.contract import DATA, SIZE, read
from tests.sources import MemorySource

PATH = "s3://bucket/model.safetensors"
HALVES = (ByteRange(0, 300_000), ByteRange(300_000, SIZE))

Wrapper: TypeAlias = Callable[[Source], Source]


def paced(source: Source) -> Source:
    return PacedSource(source, Bandwidth(1 << 30))


def verified(source: Source) -> Source:
    return VerifiedSource(source, Checksum("SHA256", hashlib.sha256(DATA).digest()))


def taped(source: Source) -> Source:
    return TapedSource(source, b"")


def shared(source: Source) -> Source:
    """The first half comes as another rank's reads do, the second is this rank's own."""
    first, second = HALVES
    spans = [Span(first.start, first.end, 0), Span(second.start, second.end, None)]

    class Ring:
        def lend(self, number: int, start: int, length: int) -> tuple[memoryview, Origin]:
            assert number == 0
            memory = memoryview(bytearray(length))
            return memory, source.read_into(first.start + start, memory)

        def give_back(self, number: int, length: int) -> None:
            pass

    return SharedSource(source, spans, Ring(), start=lambda: None, count=lambda *_: None, idle=lambda: True)


WRAPPERS: dict[str, Wrapper] = {"paced": paced, "verified": verified, "taped": taped, "shared": shared}
pairs = pytest.mark.parametrize(("outer", "inner"), list(permutations(WRAPPERS, 2)), ids=str)


def wrapped(outer: str, inner: str, source: Source) -> Source:
    return WRAPPERS[outer](WRAPPERS[inner](source))


def is_verified(outer: str, inner: str) -> bool:
    """A rank that reads a part cannot verify what is behind that; what it receives it can."""
    return "verified" in (outer, inner) and (outer, inner) != ("shared", "verified")


class VersionedSource(MemorySource):
    """A source that says what may be asked of one."""

    @property
    def version(self) -> str | None:
        return "an ETag"


@pairs
def test_what_is_told_of_a_source_comes_through(outer: str, inner: str) -> None:
    source = wrapped(outer, inner, VersionedSource(PATH, DATA, kind=SourceKind.OBJECT, alignment=PAGE))
    assert (source.path, source.kind, source.size, source.version) == (PATH, SourceKind.OBJECT, SIZE, "an ETag")
    assert source.alignment == PAGE


@pairs
def test_reads_bring_all_bytes(outer: str, inner: str) -> None:
    source = wrapped(outer, inner, MemorySource(PATH, DATA))
    assert b"".join(read(source, span) for span in HALVES) == DATA


@pairs
def test_that_bytes_are_verified_in_order_comes_through(outer: str, inner: str) -> None:
    source = wrapped(outer, inner, MemorySource(PATH, DATA))
    expected = is_verified(outer, inner)
    assert (source.verified_by, source.in_order) == ("SHA256" if expected else None, expected)
    source.skip_verification()
    assert (source.verified_by, source.in_order) == (None, False)
    assert b"".join(read(source, span) for span in reversed(HALVES)) == DATA[300_000:] + DATA[:300_000]


@pairs
def test_damage_is_found_if_bytes_are_verified(outer: str, inner: str) -> None:
    damaged = b"\0" + DATA[1:]
    source = wrapped(outer, inner, MemorySource(PATH, damaged))
    read(source, HALVES[0])
    if is_verified(outer, inner):
        with pytest.raises(ChecksumError, match=PATH):
            read(source, HALVES[1])
    else:
        read(source, HALVES[1])


@pairs
def test_an_interrupt_and_a_close_reach_the_innermost_source(outer: str, inner: str) -> None:
    innermost = MemorySource(PATH, DATA)
    source = wrapped(outer, inner, innermost)
    source.interrupt()
    with pytest.raises(InterruptedReadError):
        read(source, HALVES[0])
    with pytest.raises(InterruptedReadError):
        read(innermost, HALVES[0])
    source.close()
    assert innermost.closed == 1


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileSource]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    with closing(FileSource(str(path))) as source:
        yield source


@pairs
def test_no_read_goes_past_a_source_that_has_to_see_it(outer: str, inner: str, file: FileSource) -> None:
    assert wrapped(outer, inner, file).open_file() is None


@pytest.mark.parametrize("name", WRAPPERS)
def test_only_a_cap_on_bandwidth_lets_reads_go_past(name: str, file: FileSource) -> None:
    assert (WRAPPERS[name](file).open_file() is not None) == (name == "paced")


class CountingLine(Bandwidth):
    """A line that lets everything through, and counts it."""

    def __init__(self, piece: int) -> None:
        super().__init__(10**9)
        self.piece = piece
        self.taken = 0

    def take(self, count: int, interrupted: Callable[[], bool]) -> bool:
        self.taken += count
        return not interrupted()


def test_what_goes_past_two_caps_is_paid_for_in_both(file: FileSource) -> None:
    wide, narrow = CountingLine(100 * PAGE), CountingLine(10 * PAGE)
    for first, second in ((wide, narrow), (narrow, wide)):
        wide.taken = narrow.taken = 0
        opened = PacedSource(PacedSource(file, first), second).open_file()
        assert opened is not None
        pieces = list(opened.pieces(ByteRange(0, SIZE)))
        assert {piece.size for piece in pieces[:-1]} == {10 * PAGE}
        assert b"".join(os.pread(opened.fileno(), piece.size, piece.start) for piece in pieces) == DATA
        assert (wide.taken, narrow.taken) == (SIZE, SIZE)
