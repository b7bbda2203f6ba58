"""How many connections to object storage a load finds to be the best: a store that is made up, and its own clock."""

import heapq
from collections.abc import Callable
from itertools import pairwise

import pytest

from runai_model_streamer.pipeline.connections import HOLD, ConnectionPace, thread_seconds
from runai_model_streamer.ranges import HUGE_PAGE

READ = 8 << 20
MB = 10**6


class Store:
    """Readers that read one range after the other, as long as they are useful.

    Args:
        rate: bytes a second of one connection, where there are so many.
        refuses: whether a request is refused, where there are so many. It takes a second then.
        pause: seconds that a reader waits for memory between two reads.
    """

    def __init__(
        self,
        first: int,
        maximum: int,
        rate: Callable[[int], float],
        refuses: Callable[[int], bool] = lambda _: False,
        pause: float = 0.0,
        minimum: int = 1,
        on_cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.rate, self.refuses, self.pause, self.now, self.refused = rate, refuses, pause, 0.0, 0
        self.pace = ConnectionPace(first, maximum, 0.0, lambda: self.refused, minimum, on_cpu)
        self._sent = 0.0  # bytes that a connection would have brought that was busy all the time
        self._waiting: list[tuple[float, int, float]] = []  # until when, the reader, when its read began
        self._reading: list[tuple[float, int, float]] = []  # until how much is sent, the reader, when its read began
        self._wake()

    def _wake(self) -> None:
        """Let all useful readers read."""
        busy = {reader for _, reader, _ in (*self._reading, *self._waiting)}
        for reader in set(range(self.pace.readers)) - busy:
            self._begin(reader, self.now)

    def _begin(self, reader: int, began: float) -> None:
        refused = self.refuses(self.pace.readers)
        self.refused += refused
        heapq.heappush(self._waiting, (began + refused, reader, began))

    def run(self, seconds: float) -> "Store":
        end = self.now + seconds
        while self.now < end:
            rate = self.rate(max(len(self._reading), 1))
            lands = self.now + (self._reading[0][0] - self._sent) / rate if self._reading else end
            then = min(lands, self._waiting[0][0] if self._waiting else end, end)
            self._sent += (then - self.now) * rate
            self.now = then
            if self._waiting and self._waiting[0][0] <= then:
                _, reader, began = heapq.heappop(self._waiting)
                heapq.heappush(self._reading, (self._sent + READ, reader, began))
            elif then == lands < end:
                self._land(*heapq.heappop(self._reading)[1:])
        return self

    def _land(self, reader: int, began: float) -> None:
        were = self.pace.readers
        more = self.pace.landed(READ, self.now - began, self.now)
        assert more is (self.pace.readers > were)
        if reader < self.pace.readers:
            self._begin(reader, self.now + self.pause)
        if more:
            self._wake()

    @property
    def counts(self) -> list[int]:
        return [count for _, count in self.pace.history]


def test_it_begins_with_the_first_number() -> None:
    assert ConnectionPace(16, 256, 0.0).readers == 16


def test_it_begins_with_no_more_than_there_may_be() -> None:
    pace = ConnectionPace(16, 5, 0.0)
    assert (pace.readers, pace.held.value) == (5, "maximum")


def test_connections_that_are_each_slow_become_as_many_as_there_may_be_within_two_seconds() -> None:
    store = Store(16, 128, lambda _: 30 * MB)
    store.run(2.0)
    assert store.counts == [16, 32, 64, 128]


def test_at_the_maximum_it_says_that_this_holds_it() -> None:
    store = Store(16, 32, lambda _: 30 * MB).run(3.0)
    assert (store.pace.readers, store.pace.held.value) == (32, "maximum")


@pytest.mark.parametrize("whole", [300 * MB, 700 * MB, 1500 * MB, 12_500 * MB])
def test_a_network_of_any_speed_is_filled_and_no_more_connections_than_twice_those_that_fill_it(whole: int) -> None:
    store = Store(16, 512, lambda count: min(60 * MB, whole / count)).run(20.0)
    settled = [count for began, count in store.pace.history if began > 10] or store.counts[-1:]
    assert min(settled) * 60 * MB >= 0.85 * whole
    assert min(settled) <= max(16, 2 * whole / (60 * MB))
    assert store.pace.held.value == "no faster"


def test_after_a_trial_in_vain_it_is_a_while_until_the_next() -> None:
    store = Store(16, 64, lambda count: 480 * MB / count).run(100.0)
    assert set(store.counts) == {16, 32}
    began = [began for began, count in store.pace.history if count == 32]
    window = READ / (30 * MB)
    assert min(later - earlier for earlier, later in pairwise(began)) > HOLD * window


def test_a_network_that_others_leave_is_noticed() -> None:
    store = Store(16, 64, lambda count: 480 * MB / count).run(10.0)
    store.rate = lambda _: 30 * MB
    store.run(20.0)
    assert store.pace.readers == 64


def test_a_store_that_refuses_gets_fewer_connections() -> None:
    store = Store(64, 64, lambda _: 60 * MB, lambda count: count > 40).run(10.0)
    assert store.pace.readers <= 50
    assert store.pace.held.value == "refused"


def test_refusals_that_go_on_leave_the_fewest_connections_there_may_be() -> None:
    store = Store(64, 64, lambda _: 60 * MB, lambda count: True, minimum=3).run(300.0)
    assert min(store.counts) == 3
    assert Store(64, 64, lambda _: 60 * MB, lambda count: True).run(300.0).pace.readers == 1


def test_a_number_that_is_set_stays_whatever_the_store_says() -> None:
    store = Store(24, 24, lambda _: 60 * MB, lambda count: True, minimum=24).run(100.0)
    assert store.counts == [24]


def test_after_refusals_connections_come_again_in_small_steps() -> None:
    store = Store(64, 256, lambda _: 60 * MB, lambda count: count > 40).run(10.0)
    store.refuses = lambda _: False
    store.run(60.0)
    up = [(fewer, more) for fewer, more in pairwise(store.counts[3:]) if more > fewer]
    assert up
    assert all(more <= fewer * 1.25 + 1 for fewer, more in up)
    assert store.pace.readers > 64


def test_a_trial_that_is_refused_goes_back_to_the_number_before_it() -> None:
    store = Store(16, 64, lambda _: 60 * MB, lambda count: count > 20).run(3.0)
    assert store.counts == [16, 32, 16]


def test_a_refusal_in_passing_takes_no_connection_away() -> None:
    store = Store(64, 64, lambda _: 60 * MB).run(1.0)
    store.refused += 1
    store.run(5.0)
    assert store.counts == [64]


def test_refusals_before_it_began_do_not_count() -> None:
    pace = ConnectionPace(4, 4, 0.0, lambda: 100)
    for number in range(1, 9):
        pace.landed(READ, 0.1, 0.1 * number)
    assert pace.readers == 4


def test_readers_that_wait_for_memory_are_enough() -> None:
    store = Store(16, 256, lambda _: 60 * MB, pause=1.0).run(30.0)
    assert store.counts == [16, 32, 16]  # the first reads did not wait
    assert store.pace.held.value == "idle"


@pytest.mark.parametrize(("part", "counts"), [(0.05, [16, 32, 64]), (0.5, [16])])
def test_readers_that_keep_the_cpus_busy_are_enough(part: float, counts: list[int]) -> None:
    spent = 0.0

    def on_cpu() -> float:
        nonlocal spent
        spent += part * READ / (60 * MB)  # in each read, as one thread runs all of them
        return spent

    store = Store(16, 64, lambda _: 60 * MB, on_cpu=on_cpu).run(5.0)
    assert store.counts == counts
    assert store.pace.held.value == ("maximum" if len(counts) > 1 else "cpu")


def test_reads_that_began_before_a_change_do_not_count_for_it() -> None:
    pace = ConnectionPace(1, 4, 0.0)
    assert pace.landed(READ, 1.0, 1.0)
    assert pace.readers == 2
    for _ in range(5):
        assert not pace.landed(READ, 0.5, 1.2)
    assert pace.readers == 2


def test_a_clock_that_does_not_move_decides_nothing() -> None:
    pace = ConnectionPace(1, 8, 5.0)
    assert [pace.landed(READ, 0.0, 5.0) for _ in range(100)] == [False] * 100


def test_the_last_reads_are_cut_so_that_each_connection_has_one() -> None:
    pace = Store(16, 16, lambda _: 30 * MB).run(1.0).pace
    assert pace.largest_of(1000 * READ) == 1000 * READ // 16
    assert pace.largest_of(16 * READ) == READ
    assert pace.largest_of(8 * READ) == READ // 2
    assert pace.largest_of(16) == HUGE_PAGE


def test_reads_of_fast_connections_are_not_cut() -> None:
    assert Store(16, 16, lambda _: 1000 * MB).run(1.0).pace.largest_of(READ) is None


def test_before_a_read_has_landed_none_is_cut() -> None:
    assert ConnectionPace(16, 256, 0.0).largest_of(READ) is None


def test_a_threads_seconds_on_a_cpu_never_become_fewer() -> None:
    before = thread_seconds()
    assert 0.0 <= before <= thread_seconds()
