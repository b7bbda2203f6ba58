import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.ranges import ByteRange, round_down, round_up, split, widen

KIB = 1 << 10


@st.composite
def ranges(draw: st.DrawFn, largest: int = 10**6) -> ByteRange:
    start = draw(st.integers(0, largest))
    return ByteRange(start, start + draw(st.integers(0, largest)))


ALIGNMENTS = st.sampled_from([1, 2, 8, 512, 4096])


def test_a_range_has_a_size_and_prints_both_ends() -> None:
    assert ByteRange(3, 10).size == 7
    assert str(ByteRange(3, 10)) == "bytes 3-10"


@pytest.mark.parametrize(
    ("value", "multiple", "down", "up"),
    [
        (0, 8, 0, 0),
        (1, 8, 0, 8),
        (7, 8, 0, 8),
        (8, 8, 8, 8),
        (9, 8, 8, 16),
        (5, 1, 5, 5),
        (2**62 + 1, 4, 2**62, 2**62 + 4),
    ],
)
def test_rounding_goes_to_the_next_multiple_and_stays_on_one(value: int, multiple: int, down: int, up: int) -> None:
    assert (round_down(value, multiple), round_up(value, multiple)) == (down, up)


@pytest.mark.parametrize(
    ("span", "alignment", "size", "wide"),
    [
        ((5, 9), 1, 100, (5, 9)),
        ((5, 9), 4, 100, (4, 12)),
        ((4, 8), 4, 100, (4, 8)),
        ((5, 9), 4, 10, (4, 10)),
        ((5, 9), 4096, 10, (0, 10)),
        ((5, 5), 4, 100, (4, 8)),
    ],
)
def test_widening_goes_outwards_but_not_past_the_end(
    span: tuple[int, int], alignment: int, size: int, wide: tuple[int, int]
) -> None:
    assert widen(ByteRange(*span), alignment, size) == wide


@given(ranges(), ALIGNMENTS, st.integers(0, 10**6))
def test_a_widened_range_holds_the_range_and_is_aligned_and_small(span: ByteRange, alignment: int, rest: int) -> None:
    size = span.end + rest
    wide = widen(span, alignment, size)
    assert wide.start <= span.start
    assert span.end <= wide.end <= size
    assert wide.start % alignment == 0
    assert wide.end % alignment == 0 or wide.end == size
    assert wide.size - span.size < 2 * alignment
    assert widen(wide, alignment, size) == wide


@pytest.mark.parametrize(
    ("span", "chunk", "pieces"),
    [
        ((0, 0), 4, []),
        ((7, 7), 4, []),
        ((0, 4), 4, [(0, 4)]),
        ((3, 5), 4, [(3, 5)]),
        ((3, 7), 4, [(3, 7)]),
        ((3, 8), 4, [(3, 4), (4, 8)]),
        ((0, 5), 4, [(0, 4), (4, 5)]),
        ((8, 17), 4, [(8, 12), (12, 16), (16, 17)]),
        ((9, 17), 4, [(9, 12), (12, 16), (16, 17)]),
    ],
)
def test_splitting_cuts_at_multiples_of_the_chunk_what_is_longer_than_one(
    span: tuple[int, int], chunk: int, pieces: list[tuple[int, int]]
) -> None:
    assert list(split(ByteRange(*span), chunk)) == pieces


@given(ranges(), st.integers(1, 10**6))
def test_pieces_cover_the_range_once_and_none_is_larger_than_a_chunk(span: ByteRange, chunk: int) -> None:
    chunk = max(chunk, span.size // 100)
    pieces = list(split(span, chunk))
    assert [piece.start for piece in pieces] == [span.start, *(piece.end for piece in pieces)][: len(pieces)]
    assert all(0 < piece.size <= chunk for piece in pieces)
    assert sum(piece.size for piece in pieces) == span.size
