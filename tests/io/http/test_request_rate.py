"""How many requests a second a store is asked, by a store that is made up and its own clock."""

import heapq
from collections.abc import Callable

import pytest

from runai_model_streamer.io.http.request_rate import RequestRate, RequestRates


class Bucket:
    """A store that takes so many requests a second, and a few more at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.at = rate, burst, burst, 0.0

    def takes(self, now: float) -> bool:
        self.level = min(self.level + (now - self.at) * self.rate, self.burst)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Load:
    """Readers that ask one request after the other, each answered after `lasts` seconds."""

    def __init__(self, readers: int, lasts: float, takes: Callable[[float], bool]) -> None:
        self.now, self.lasts, self.takes = 0.0, lasts, takes
        self.rate = RequestRate(lambda: self.now)
        self.asked = self.answers = self.refusals = 0
        # Not all at the very same time.
        self._waiting = [(0.001 * reader, reader) for reader in range(readers)]  # when it asks for its turn, the reader
        self._asking: list[tuple[float, int]] = []  # when its turn comes
        self._turns: dict[int, float] = {}

    def run(self, seconds: float) -> "Load":
        end = self.now + seconds
        while True:
            first = min(*self._waiting[:1], *self._asking[:1], (end, -1))
            if first[0] >= end:
                self.now = end
                return self
            self.now = first[0]
            if self._waiting and self._waiting[0] == first:
                _, reader = heapq.heappop(self._waiting)
                self._turns[reader] = self.rate.reserve()
                heapq.heappush(self._asking, (self.now, reader))
                continue
            _, reader = heapq.heappop(self._asking)
            if pause := self.rate.wait(self._turns[reader]):
                heapq.heappush(self._asking, (self.now + pause, reader))
                continue
            self.asked += 1
            if self.takes(self.now):
                self.answers += 1
                self.rate.answered()
                heapq.heappush(self._waiting, (self.now + self.lasts, reader))
            else:
                self.refusals += 1
                self.rate.refused(answered=True)
                heapq.heappush(self._waiting, (self.now + 0.075, reader))

    def count(self) -> None:
        self.asked = self.answers = self.refusals = 0


@pytest.mark.parametrize("readers", [4, 16, 64, 400])
@pytest.mark.parametrize("burst", [5, 20, 200])
def test_a_store_that_takes_so_many_a_second_gets_nearly_as_many_and_refuses_few(readers: int, burst: int) -> None:
    load = Load(readers, 0.01, Bucket(200, burst).takes).run(5.0)
    load.count()
    load.run(30.0)
    assert load.answers >= 0.9 * 200 * 30
    assert load.refusals <= 0.05 * load.asked


def test_a_store_that_refuses_none_is_asked_as_often_as_readers_can() -> None:
    load = Load(16, 0.01, lambda _: True).run(5.0)
    assert load.rate.limit is None
    assert load.answers >= 16 * 5 / 0.011


def test_a_few_refusals_in_passing_bind_nothing() -> None:
    turns = iter(range(10**9))
    load = Load(16, 0.01, lambda _: next(turns) % 50 != 0).run(10.0)
    assert load.rate.limit is None
    assert load.rate.refusals > 100


def test_refusals_that_do_not_become_fewer_have_another_cause() -> None:
    turns = iter(range(10**9))
    load = Load(16, 0.01, lambda _: next(turns) % 3 != 0).run(10.0)
    assert load.rate.limit is None
    load.count()
    load.run(10.0)
    assert load.asked >= 10 * 16 / 0.05


def test_a_store_that_takes_more_again_is_asked_for_more() -> None:
    bucket = Bucket(100, 20)
    load = Load(16, 0.01, bucket.takes).run(10.0)
    bucket.rate = 200
    load.run(60.0)
    load.count()
    load.run(10.0)
    assert load.answers >= 0.9 * 200 * 10


def test_requests_without_an_answer_are_counted_and_bind_nothing() -> None:
    rate = RequestRate(lambda: 1.0)
    for _ in range(100):
        rate.answered()
        rate.refused(answered=False)
    assert (rate.refusals, rate.limit, rate.wait(rate.reserve())) == (100, None, 0.0)


def test_before_the_rate_of_answers_is_known_nothing_is_bound() -> None:
    rate = RequestRate(lambda: 1.0)
    for _ in range(100):
        rate.refused(answered=True)
    assert rate.limit is None


def test_turns_are_as_far_apart_as_the_bound_says() -> None:
    rate = RequestRate(lambda: 0.0)
    rate.limit = 10.0
    assert [rate.wait(rate.reserve()) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_a_turn_that_was_given_before_the_bound_fell_comes_later() -> None:
    now = 0.0
    rate = RequestRate(lambda: now)
    rate.limit = 10.0
    turns = [rate.reserve() for _ in range(5)]
    rate.limit = 1.0
    assert rate.wait(turns[-1]) == 1.0  # to ask again
    now = 0.5
    assert 0.0 < rate.wait(turns[0]) < 0.5
    rate.limit = None
    assert rate.wait(turns[-1]) == 0.0


def test_each_host_or_bucket_has_a_rate_of_its_own() -> None:
    rates = RequestRates(lambda: 1.0)
    for _ in range(10):
        rates.of("https://one:8080/model").answered()
        rates.of("https://one:8080/other").refused(answered=True)
    assert rates.of("https://one:8080").limit is not None
    assert rates.of("https://two/model").limit is None
    assert rates.of("s3://bucket/key") is rates.of("s3://bucket")
    assert rates.refusals == 10
