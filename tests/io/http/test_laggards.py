"""Which requests are asked for a second time, on a clock of the test's."""

import random
from statistics import median
from typing import NamedTuple

import pytest

from runai_model_streamer.io.http.laggards import HedgePolicy, Laggards

SIZE = 8 << 20


def after(ended: int, seconds: float = 0.3, policy: HedgePolicy | None = None) -> Laggards[str]:
    """So many requests at once have ended, after `seconds` each."""
    laggards: Laggards[str] = Laggards(policy or HedgePolicy())
    for number in range(ended):
        laggards.begin(f"{number}", SIZE, -seconds)
    for number in range(ended):
        laggards.end(f"{number}", 0.0, complete=True, came=True)
    return laggards


def begin(laggards: Laggards[str], *names: str, size: int = SIZE) -> None:
    for name in names:
        laggards.begin(name, size, 0.0)


def test_one_that_takes_three_times_as_long_as_others_is_late() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    assert laggards.find(0.85) == []
    for number in range(10):
        laggards.end(str(number), 0.3, complete=True, came=True)
    assert "slow" in laggards.find(0.95)


def test_when_few_are_left_half_as_much_again_is_late() -> None:
    laggards = after(40)
    begin(laggards, "slow")
    assert laggards.find(0.40) == []
    assert laggards.find(0.50) == ["slow"]


def test_where_times_differ_it_has_to_take_longer_than_most() -> None:
    laggards: Laggards[str] = Laggards(HedgePolicy())
    for number in range(50):
        laggards.begin(f"{number}", SIZE, 0.0)
    for number in range(50):
        laggards.end(f"{number}", 2.0 if number % 4 == 0 else 0.3, complete=True, came=True)
    begin(laggards, "slow")
    assert laggards.find(2.9) == []
    assert laggards.find(3.1) == ["slow"]


def test_it_is_found_only_once() -> None:
    laggards = after(100)
    begin(laggards, "slow")
    assert laggards.find(1.0) == ["slow"]
    assert laggards.find(2.0) == []
    laggards.forget("slow")
    assert laggards.find(3.0) == []


def test_before_times_are_known_none_is_late() -> None:
    laggards = after(7)
    begin(laggards, "slow")
    assert laggards.find(1000.0) == []


def test_no_more_than_five_percent_are_asked_for_again() -> None:
    laggards = after(100)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    found = []
    for second in range(1, 30):
        found += laggards.find(float(second))
        for name in found:
            laggards.forget(name)
    assert len(found) == 8
    assert laggards.spent == 8 * SIZE


def test_second_answers_are_held_in_so_much_memory() -> None:
    laggards = after(1000)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    assert len(laggards.find(10.0)) == 4
    assert laggards.find(11.0) == []


def test_a_range_that_is_larger_than_that_memory_is_never_asked_for_again() -> None:
    laggards = after(1000)
    begin(laggards, "large", size=64 << 20)
    assert laggards.find(1000.0) == []


@pytest.mark.parametrize("own", [True, False])
def test_times_are_those_of_own_answers(own: bool) -> None:
    laggards = after(40)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    for number in range(60):
        laggards.end(f"slow{number}", 10.0, complete=own, came=True)
    begin(laggards, "next")
    assert bool(laggards.find(2.0)) is not own


def test_requests_of_next_to_no_time_are_late_after_a_tenth_of_a_second() -> None:
    laggards = after(100, seconds=0.001)
    begin(laggards, "slow")
    assert laggards.find(0.09) == []
    assert laggards.find(0.11) == ["slow"]


def test_one_whose_rate_says_that_it_will_take_three_times_as_long_is_late_at_once() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    landed = {"slow": 1000}
    assert laggards.find(0.12, lambda key: landed.get(key, 1000)) == []  # from here on its rate is measured
    landed = {"slow": 1000 + SIZE // 12} | {str(number): SIZE // 2 for number in range(39)}
    assert laggards.find(0.23, landed.__getitem__) == []
    landed = {"slow": 1000 + SIZE // 10} | {str(number): SIZE * 3 // 4 for number in range(39)}
    assert laggards.find(0.25, landed.__getitem__) == ["slow"]


def test_one_that_is_slow_but_nearly_through_is_not_asked_for_again() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    landed = SIZE - 1000
    assert laggards.find(0.3, lambda _: landed) == []
    landed += 800
    assert laggards.find(0.8, lambda _: landed) == []


def test_one_whose_answer_has_not_begun_is_late_by_its_time_alone() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    assert laggards.find(0.85, lambda _: 0) == []
    assert "slow" in laggards.find(0.95, lambda _: 0)


def test_small_ranges_are_compared_with_small_ones() -> None:
    laggards = after(40)
    for number in range(8):
        laggards.begin(f"small{number}", SIZE // 8, 0.0)
        laggards.end(f"small{number}", 0.2, complete=True, came=True)
    begin(laggards, "small", *map(str, range(39)), size=SIZE // 8)
    assert laggards.find(0.5) == []  # three times what an eighth of a large one takes is 0.1 s
    assert "small" in laggards.find(0.65)


class Request(NamedTuple):
    size: int
    began: float
    rate: float

    def landed(self, now: float) -> int:
        return min(int(max(now - self.began, 0.0) * self.rate), self.size)


class Straggling:
    """A load from a store that sends one answer in so many a tenth as fast, on a clock of its own.

    Args:
        seed: decides which, and how rates and latencies differ otherwise.
        slow: the part of answers that are slow.
        hedged: whether late requests are made a second time.
    """

    def __init__(self, seed: int, size: int, connections: int, rate: float, latency: float, slow: float, hedged: bool):
        made = random.Random(seed)
        laggards: Laggards[int] = Laggards(HedgePolicy())
        firsts: dict[int, Request] = {}
        seconds: dict[int, Request] = {}
        left, came, number, now, looks = size, 0, 0, 0.0, 0.0
        self.fetched = 0.0
        """Bytes sent, as a part of those wanted."""

        def request(length: int) -> Request:
            each = rate * made.uniform(0.9, 1.1) * (0.1 if made.random() < slow else 1.0)
            return Request(length, now + latency * made.uniform(0.5, 1.5), each)

        while came < size:
            while left and len(firsts) < connections:
                length = min(left, SIZE, max(2 << 20, left // connections))
                firsts[number] = request(length)
                laggards.begin(number, length, now)
                left, number = left - length, number + 1
            now += 0.005
            for key, first in list(firsts.items()):
                second = seconds.get(key)
                complete = first.landed(now) == first.size
                if complete or (second is not None and second.landed(now) == second.size):
                    laggards.end(key, now, complete=complete, came=True)
                    laggards.forget(key)
                    came += first.size
                    self.fetched += first.landed(now) / size
                    self.fetched += 0.0 if second is None else seconds.pop(key).landed(now) / size
                    del firsts[key]
            if hedged and now >= looks:
                looks = now + HedgePolicy().tick
                landed = {key: first.landed(now) for key, first in firsts.items()}
                for key in laggards.find(now, landed.__getitem__):
                    seconds[key] = request(firsts[key].size)
        self.seconds = now


@pytest.mark.parametrize("latency", [0.01, 0.1])
@pytest.mark.parametrize(("gigabytes", "connections", "rate"), [(2, 64, 30e6), (8, 64, 30e6), (8, 64, 90e6)])
def test_a_load_with_one_answer_in_fifty_ten_times_as_slow_takes_a_seventh_longer_and_fetches_little_twice(
    gigabytes: int, connections: int, rate: float, latency: float
) -> None:
    times, without = [], []
    for seed in range(3):
        size = gigabytes * 10**9
        even, hedged, late = (
            Straggling(seed, size, connections, rate, latency, slow, hedges)
            for slow, hedges in ((0.0, True), (0.02, True), (0.02, False))
        )
        times.append(hedged.seconds / even.seconds)
        without.append(late.seconds / even.seconds)
        assert hedged.fetched <= 1.05
        assert even.fetched <= 1.001
    assert median(times) <= 1.15
    assert median(without) > 1.1
