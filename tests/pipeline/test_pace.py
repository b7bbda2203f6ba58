"""How many readers a load finds to be of use: a disk of a rate that is told, and a clock that is too."""

from collections.abc import Callable

import pytest

from runai_model_streamer.pipeline.pace import HOLD, MAX_HOLD, MIN_SECONDS, WINDOW, Pace
from runai_model_streamer.ranges import HUGE_PAGE

READ = 8 << 20


class Load:
    """Reads that land one after the other, at the rate that the disk gives to so many readers.

    Args:
        rate: bytes a second, for a number of readers.
        busy: share of their time that readers spend in reads.
    """

    def __init__(self, pace: Pace, rate: Callable[[int], float], busy: float = 1.0) -> None:
        self.pace, self.rate, self.busy, self.now = pace, rate, busy, 0.0
        self.tried: list[int] = [pace.readers]

    def run(self, reads: int) -> None:
        for _ in range(reads):
            readers = self.pace.readers
            passed = READ / self.rate(readers)
            self.now += passed
            more = self.pace.landed(READ, passed * readers * self.busy, self.now)
            assert more is (self.pace.readers > readers)
            if self.pace.readers != readers:
                self.tried.append(self.pace.readers)


def test_it_begins_with_few_readers() -> None:
    assert Pace(4, 64, 0.0).readers == 4


def test_it_begins_with_no_more_than_there_may_be() -> None:
    assert Pace(16, 8, 0.0).readers == 8


def test_readers_are_doubled_while_that_is_faster() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 1e9 * readers)
    load.run(1000)
    assert load.tried == [4, 8, 16, 32, 64]


def test_twice_as_many_that_are_no_faster_go_back_to_rest() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 2.5e9)
    load.run(2 * WINDOW * (4 + 8) + 8)
    assert load.tried == [4, 8, 4]


def test_readers_stay_as_many_as_were_faster() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 1e9 * min(readers, 16))
    load.run(WINDOW * (4 + 8 + 16 + 32) + 100)
    assert load.pace.readers == 16


def test_after_a_trial_in_vain_it_is_a_while_until_the_next() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 2.5e9)
    load.run(WINDOW * 4 * (HOLD + 1))
    assert load.tried == [4, 8, 4]
    load.run(WINDOW * 4 * 6)
    assert load.tried[:4] == [4, 8, 4, 8]


def test_trials_in_vain_become_rare() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 2.5e9)
    trial, window = 8 + WINDOW * 8 + 8, WINDOW * 4
    load.run(window + trial + (HOLD + 1) * window + trial + (2 * HOLD + 1) * window + trial + MAX_HOLD * window)
    assert load.tried == [4, *(8, 4) * 3]


def test_a_trial_that_helps_makes_the_next_one_as_soon_as_at_first() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 2.5e9)
    load.run(WINDOW * 4 * 3 * HOLD)
    load.rate = lambda readers: 1e9 * min(readers, 8)
    load.run(WINDOW * 4 * MAX_HOLD)
    assert load.pace.readers == 8
    load.rate = lambda readers: 1e9 * readers
    load.run(WINDOW * 8 * 3 * HOLD)
    assert load.pace.readers == 64


def test_storage_that_becomes_faster_is_noticed() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 2.5e9)
    load.run(200)
    load.rate = lambda readers: 1e9 * readers
    load.run(2000)
    assert load.pace.readers == 64


def test_no_more_readers_are_tried_while_they_wait_for_other_things_than_reads() -> None:
    load = Load(Pace(4, 64, 0.0), lambda readers: 1e9 * readers, busy=0.5)
    load.run(1000)
    assert load.tried == [4]


@pytest.mark.parametrize("readers", [4, 64])
@pytest.mark.parametrize(("rate", "large"), [(2e9, 1), (40e9, 20), (100e9, 48)])
def test_the_faster_storage_is_the_larger_are_reads_of_any_number_of_readers(
    rate: float, large: int, readers: int
) -> None:
    load = Load(Pace(readers, readers, 0.0), lambda readers: rate)
    assert load.pace.large == 0
    load.run(readers)
    assert load.pace.large == large * HUGE_PAGE
    assert load.pace.large >= rate * MIN_SECONDS


def test_a_clock_that_does_not_move_decides_nothing() -> None:
    pace = Pace(1, 8, 5.0)
    assert [pace.landed(READ, 0.0, 5.0) for _ in range(100)] == [False] * 100
    assert pace.readers == 1
