"""How many connections to object storage a load finds to be the best: a store that is made up, and its own clock."""

from itertools import pairwise

import pytest

from runai_model_streamer.pipeline.connections import HOLD, ConnectionPace, thread_seconds
from runai_model_streamer.ranges import HUGE_PAGE
from tests.pipeline.slow_store import MB, READ, Store
from tests.pipeline.straggling import StragglingLoad


def test_it_begins_with_the_first_number() -> None:
    assert ConnectionPace(16, 256, 0.0).readers == 16


def test_it_begins_with_no_more_than_there_may_be() -> None:
    pace = ConnectionPace(16, 5, 0.0)
    assert (pace.readers, pace.held.value) == (5, "maximum")


def test_connections_that_are_each_slow_become_as_many_as_there_may_be_within_a_second() -> None:
    store = Store(16, 512, lambda _: 30 * MB).run(1.2)
    assert store.counts == [16, 64, 256, 512]


@pytest.mark.parametrize(("latency", "uneven"), [(0.0, 0.0), (0.02, 0.1), (0.02, 0.3)])
@pytest.mark.parametrize("whole", [1700 * MB, 5000 * MB, 12_500 * MB, 50_000 * MB])
@pytest.mark.parametrize("each", [30 * MB, 90 * MB])
def test_nine_tenths_of_what_a_store_gives_come_from_the_third_second_on(
    each: int, whole: int, latency: float, uneven: float
) -> None:
    store = Store(16, 512, lambda count: min(each, whole / count), latency=latency, uneven=uneven).run(8.0)
    most = min(whole, 512 * READ / (READ / each + latency))
    assert min(store.seconds[2:8]) >= 0.9 * most


@pytest.mark.parametrize("each", [30 * MB, 90 * MB])
def test_a_store_that_is_far_away_takes_a_second_longer(each: int) -> None:
    store = Store(16, 512, lambda _: each, latency=0.1, uneven=0.3).run(8.0)
    assert min(store.seconds[3:8]) >= 0.9 * 512 * READ / (READ / each + 0.1)


def test_new_connections_that_are_slow_at_first_are_looked_at_again() -> None:
    """Four times as many bring twice as much at first, and then four times as much."""
    store = Store(16, 64, lambda _: 60 * MB)
    store.latency = 0.0
    store.run(0.1)
    store.latency = READ / (60 * MB)  # of reads from now on; a first one takes four times as long
    store.run(5.0)
    assert store.pace.readers == 64


def test_a_network_that_is_nearly_full_gets_a_quarter_more_than_fill_it() -> None:
    store = Store(16, 512, lambda count: min(90 * MB, 1700 * MB / count)).run(2.0)
    assert store.counts[:3] == [16, 64, 24]  # 19 fill it


def test_reads_of_the_disk_say_nothing_of_connections_but_that_readers_are_busy() -> None:
    each = READ / (60 * MB)
    alone, beside = ConnectionPace(4, 64, 0.0), ConnectionPace(4, 64, 0.0)
    for pace, parts in ((alone, 1), (beside, 4)):  # of which one is fetched
        now = 0.0
        for _ in range(3):
            now += parts * each
            for reader in range(pace.readers):
                for _ in range(parts - 1):
                    pace.landed(16 * READ, each, now + reader * 1e-6, fetched=False)
                pace.landed(READ, each, now + reader * 1e-6)
    assert beside.readers == alone.readers == 64


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
    assert store.counts[:3] == [16, 64, 16]
    assert set(store.counts[3:]) == {16, 32}
    began = [began for began, count in store.pace.history if count > 16]
    window = READ / (30 * MB)
    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert pauses[0] > HOLD * window
    assert pauses[1] > 2 * HOLD * window


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
    assert store.counts[:3] == [16, 64, 16]


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
    assert store.counts[:3] == [16, 64, 16]  # the first reads did not wait
    assert store.pace.held.value == "idle"


@pytest.mark.parametrize(("part", "counts"), [(0.05, [16, 64]), (0.2, [16, 32, 64]), (0.5, [16])])
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
    pace = ConnectionPace(1, 16, 0.0)
    assert pace.landed(READ, 1.0, 1.0)
    assert pace.readers == 4
    for _ in range(9):
        assert not pace.landed(READ, 0.5, 1.2)
    assert pace.readers == 4


def test_reads_that_began_a_moment_before_a_change_count_for_it() -> None:
    pace = ConnectionPace(1, 16, 0.0)
    assert pace.landed(READ, 1.0, 1.0)
    assert [pace.landed(READ, 1.0, 1.95) for _ in range(4)] == [False, False, False, True]


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


def test_reads_are_short_at_first_unless_the_number_of_connections_is_set() -> None:
    assert ConnectionPace(16, 256, 0.0).short == 32
    assert ConnectionPace(16, 16, 0.0).short == 0


@pytest.mark.parametrize("rate", [30, 90])
def test_short_reads_make_the_first_change_come_within_half_a_read(rate: int) -> None:
    load = StragglingLoad(1, 0.0, rate=rate * MB, whole=12_500 * MB, hedged=False)
    assert load.pace.history[1][0] < READ / (rate * MB) / 2
    assert load.pace.history[1][1] == 64


def test_a_threads_seconds_on_a_cpu_never_become_fewer() -> None:
    before = thread_seconds()
    assert 0.0 <= before <= thread_seconds()
