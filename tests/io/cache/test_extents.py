"""The pieces that are there, and what of a range they make up."""

import itertools
import random

from runai_model_streamer.io.cache.extents import Extents, Piece, Run
from runai_model_streamer.ranges import ByteRange


def extents_of(*spans: tuple[int, int]) -> Extents:
    extents = Extents()
    for start, end in spans:
        extents.add(Piece(start, end, 0))
    return extents


def test_a_range_is_divided_into_what_is_there_and_what_is_not() -> None:
    extents = extents_of((20, 30), (10, 20), (40, 50))
    assert list(extents.runs(ByteRange(5, 60))) == [
        Run(5, 10, False),
        Run(10, 30, True),
        Run(30, 40, False),
        Run(40, 50, True),
        Run(50, 60, False),
    ]


def test_a_range_within_a_piece_is_there() -> None:
    assert extents_of((10, 20)).has(12, 13)
    assert not extents_of((10, 20)).has(19, 21)


def test_a_piece_takes_the_place_of_those_within_it() -> None:
    extents = extents_of((10, 20), (30, 40))
    assert extents.add(Piece(10, 40, 5))
    assert list(extents) == [Piece(10, 40, 5)]
    assert extents.bytes == 30


def test_a_piece_that_overlaps_another_in_part_is_left_out() -> None:
    extents = extents_of((10, 20))
    assert not extents.add(Piece(15, 25, 5))
    assert list(extents) == [Piece(10, 20, 0)]


def test_only_the_same_piece_is_removed() -> None:
    extents = extents_of((10, 20))
    extents.remove(Piece(10, 20, 9))
    assert extents.bytes == 10
    extents.remove(Piece(10, 20, 0))
    assert extents.bytes == len(extents) == 0


def test_runs_agree_with_a_map_of_single_bytes() -> None:
    choice = random.Random(1)
    for _ in range(200):
        extents, held = Extents(), set[int]()
        for _ in range(choice.randrange(12)):
            start = choice.randrange(90)
            piece = Piece(start, start + choice.randrange(1, 20), choice.randrange(9))
            if extents.add(piece):
                held |= set(range(piece.start, piece.end))
        assert extents.bytes == len(held)
        span = ByteRange(choice.randrange(50), choice.randrange(50, 120))
        runs = list(extents.runs(span))
        assert [run.start for run in runs] == [span.start, *(run.end for run in runs[:-1])][: len(runs)]
        assert {byte for run in runs if run.held for byte in range(run.start, run.end)} == held & set(range(*span))
        assert all(one.held != other.held for one, other in itertools.pairwise(runs))
