"""How much page-locked memory a load stages bytes in."""

import pytest

from runai_model_streamer.errors import RunaiStreamerMemoryLimitException
from runai_model_streamer.pipeline.cuda.staging import MAX_BYTES, Staging, staging_for
from runai_model_streamer.ranges import PAGE

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "chunk", "concurrency", "slots"),
    [
        (None, 2 * MIB, 16, (2 * MIB, 18)),
        (None, 8 * MIB, 8, (8 * MIB, 10)),
        (None, 64 * MIB, 16, (64 * MIB, MAX_BYTES // (64 * MIB))),
        (None, 1024 * MIB, 16, (MAX_BYTES // 2, 2)),
        (0, 2 * MIB, 16, (2 * MIB, 2)),
        (0, 1024 * MIB, 16, (MAX_BYTES // 2, 2)),
        (4 * MIB, 2 * MIB, 16, (2 * MIB, 2)),
        (9 * MIB, 2 * MIB, 16, (2 * MIB, 4)),
        (3 * MIB, 2 * MIB, 16, (3 * MIB // 2, 2)),
        (2 * PAGE, 2 * MIB, 16, (PAGE, 2)),
        (1 << 40, 2 * MIB, 16, (2 * MIB, 18)),
    ],
)
def test_slots_fit_into_the_limit(limit: int | None, chunk: int, concurrency: int, slots: tuple[int, int]) -> None:
    assert staging_for(limit, chunk, concurrency)[:2] == slots


@pytest.mark.parametrize(
    ("limit", "chunk", "concurrency", "slots", "joined"),
    [
        (None, 8 * MIB, 16, (14 * MIB, 18), 2),
        (None, 8 * MIB, 8, (24 * MIB, 10), 1),
        (None, 8 * MIB, 1, (32 * MIB, 3), 1),
        (None, 8 * MIB, 64, (8 * MIB, 32), 4),
        (1 << 40, 8 * MIB, 16, (14 * MIB, 18), 2),
        (200 * MIB, 8 * MIB, 16, (10 * MIB, 18), 3),
        (100 * MIB, 8 * MIB, 16, (8 * MIB, 12), 3),
        (40 * MIB, 8 * MIB, 16, (8 * MIB, 5), 1),
        (0, 8 * MIB, 16, (8 * MIB, 2), 1),
    ],
)
def test_slots_for_reads_that_grow_are_as_many_and_take_the_memory_that_is_left(
    limit: int | None, chunk: int, concurrency: int, slots: tuple[int, int], joined: int
) -> None:
    staging = staging_for(limit, chunk, concurrency, grows=True)
    assert staging[:2] == slots
    assert staging.joined == joined
    assert staging.largest <= 32 * MIB
    assert staging.slots == staging_for(limit, chunk, concurrency).slots
    assert staging.bytes <= MAX_BYTES


@pytest.mark.parametrize("limit", [1, PAGE, 2 * PAGE - 1])
def test_a_limit_without_room_for_two_pages_is_an_error_that_says_so(limit: int) -> None:
    with pytest.raises(RunaiStreamerMemoryLimitException, match=f"MEMORY_LIMIT={limit} is too small.* {2 * PAGE} or"):
        staging_for(limit, 2 * MIB, 16)


@pytest.mark.parametrize(("limit", "kept"), [(None, MAX_BYTES), (0, 0), (9 * MIB, 9 * MIB)])
def test_as_much_as_the_limit_may_stay_page_locked(limit: int | None, kept: int) -> None:
    assert staging_for(limit, 2 * MIB, 16).kept == kept


@pytest.mark.parametrize(
    ("kept", "size", "fits"),
    [(8 * MIB, 4 * MIB, True), (8 * MIB, 8 * MIB, True), (8 * MIB, 2 * MIB, False), (8 * MIB, 9 * MIB, False)],
)
def test_an_arena_fits_that_holds_all_slots_and_is_within_the_limit(kept: int, size: int, fits: bool) -> None:
    assert Staging(2 * MIB, 2, kept).fits(size) is fits


def test_with_limit_0_only_an_arena_of_just_that_size_fits() -> None:
    staging = staging_for(0, 2 * MIB, 16)
    assert [staging.fits(size) for size in (2 * MIB, 4 * MIB, 6 * MIB)] == [False, True, False]


@pytest.mark.parametrize(("length", "reads"), [(1, 18), (14 * MIB, 18), (14 * MIB + 1, 9), (28 * MIB, 9)])
def test_a_read_takes_whole_slots(length: int, reads: int) -> None:
    assert staging_for(None, 8 * MIB, 16, grows=True).reads_at_once(length) == reads
