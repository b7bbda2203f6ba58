"""Which requests are asked for a second time, on a clock of the test's."""

import pytest

from runai_model_streamer.io.http.laggards import HedgePolicy, Laggards, Late

SIZE = 8 << 20


def after(ended: int, seconds: float = 0.3, policy: HedgePolicy | None = None) -> Laggards[str]:
    """So many requests at once have ended, after `seconds` each."""
    laggards: Laggards[str] = Laggards(policy or HedgePolicy())
    for number in range(ended):
        laggards.begin(f"{number}", SIZE, -seconds)
    for number in range(ended):
        laggards.end(f"{number}", 0.0, complete=True, came=True)
    return laggards


def others(laggards: Laggards[str], count: int = 300) -> None:
    """So many short ones are in flight that never lag."""
    for number in range(count):
        laggards.begin(f"other{number}", 1, 1e9)


def keys(found: list[Late[str]]) -> list[str]:
    return [late.key for late in found]


def begin(laggards: Laggards[str], *names: str, size: int = SIZE) -> None:
    for name in names:
        laggards.begin(name, size, 0.0)


def test_one_that_takes_three_times_as_long_as_others_is_late() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    for number in range(15):
        laggards.end(str(number), 0.3, complete=True, came=True)
        laggards.begin(f"next{number}", SIZE, 0.3)
    for number in range(15, 39):
        laggards.end(str(number), 0.3, complete=True, came=True)
        laggards.begin(f"next{number}", SIZE, 0.3)
    assert laggards.find(0.85) == []
    assert keys(laggards.find(0.95)) == ["slow"]


def test_when_few_are_left_half_as_much_again_is_late() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    for name in map(str, range(39)):
        laggards.end(name, 0.3, complete=True, came=True)
    assert laggards.find(0.40) == []
    assert keys(laggards.find(0.50)) == ["slow"]


def test_where_times_differ_it_has_to_take_longer_than_most() -> None:
    laggards: Laggards[str] = Laggards(HedgePolicy())
    for number in range(50):
        laggards.begin(f"{number}", SIZE, 0.0)
    for number in range(50):
        laggards.end(f"{number}", 2.0 if number % 4 == 0 else 0.3, complete=True, came=True)
    begin(laggards, "slow")
    assert laggards.find(2.9) == []
    assert keys(laggards.find(3.1)) == ["slow"]


def test_it_is_found_again_if_the_second_request_is_late_too_and_then_no_more() -> None:
    laggards = after(100)
    begin(laggards, "slow", *map(str, range(99)))
    for name in map(str, range(99)):
        laggards.end(name, 0.3, complete=True, came=True)
    assert keys(laggards.find(1.0)) == ["slow"]
    assert laggards.find(1.4) == []  # one and a half times 0.3 s later it is late
    assert keys(laggards.find(1.5)) == ["slow"]
    assert laggards.find(100.0) == []


def test_before_times_are_known_none_is_late() -> None:
    laggards = after(7)
    begin(laggards, "slow")
    assert laggards.find(1000.0) == []


def test_no_more_than_five_percent_are_asked_for_again() -> None:
    laggards = after(100)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    others(laggards)
    found = []
    for second in range(1, 30):
        late = laggards.find(float(second))
        found += late
        for each in late:
            laggards.forget(each, each.rest)
    assert len(found) == 8
    assert laggards.spent == 8 * SIZE


def test_second_answers_are_held_in_so_much_memory() -> None:
    laggards = after(1000)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    others(laggards)
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
    others(laggards)
    for number in range(60):
        laggards.end(f"slow{number}", 10.0, complete=own, came=True)
    begin(laggards, "next")
    assert bool(laggards.find(2.0)) is not own


def test_requests_of_next_to_no_time_are_late_after_a_tenth_of_a_second() -> None:
    laggards = after(100, seconds=0.001)
    begin(laggards, "slow")
    assert laggards.find(0.09) == []
    assert keys(laggards.find(0.11)) == ["slow"]


def test_one_whose_rate_says_that_it_will_take_three_times_as_long_is_late_at_once() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    landed = {"slow": 1000}
    assert laggards.find(0.12, lambda key: landed.get(key, 1000)) == []  # from here on its rate is measured
    landed = {"slow": 1000 + SIZE // 12} | {str(number): SIZE // 2 for number in range(39)}
    assert laggards.find(0.23, landed.__getitem__) == []
    landed = {"slow": 1000 + SIZE // 10} | {str(number): SIZE * 3 // 4 for number in range(39)}
    assert keys(laggards.find(0.25, landed.__getitem__)) == ["slow"]


def test_one_that_is_slow_but_nearly_through_is_not_asked_for_again() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    landed = SIZE - 1000
    assert laggards.find(0.3, lambda _: landed) == []
    landed += 800
    assert laggards.find(0.8, lambda _: landed) == []


def test_one_whose_answer_has_not_begun_is_late_by_its_time_alone() -> None:
    laggards = after(40)
    begin(laggards, "slow")
    others(laggards)
    assert laggards.find(0.85, lambda _: 0) == []
    assert "slow" in keys(laggards.find(0.95, lambda _: 0))


def test_small_ranges_are_compared_with_small_ones() -> None:
    laggards = after(40)
    for number in range(8):
        laggards.begin(f"small{number}", SIZE // 8, 0.0)
        laggards.end(f"small{number}", 0.2, complete=True, came=True)
    begin(laggards, "small", size=SIZE // 8)
    others(laggards)
    assert laggards.find(0.5) == []  # three times what an eighth of a large one takes is 0.1 s
    assert "small" in keys(laggards.find(0.65))


def test_only_what_it_lacks_is_asked_for_again() -> None:
    laggards = after(40)
    begin(laggards, "slow")
    others(laggards)
    assert Late("slow", 3_000_000, SIZE - 3_000_000) in laggards.find(1.0, lambda _: 3_000_000)


def test_one_that_has_all_its_bytes_is_not_asked_for_again() -> None:
    laggards = after(40)
    begin(laggards, "slow")
    assert laggards.find(1.0, lambda _: SIZE) == []


def test_one_that_stops_halfway_is_late_before_it_has_taken_three_times_as_long() -> None:
    laggards = after(40)
    begin(laggards, "slow", *map(str, range(39)))
    landed = {"slow": SIZE // 2} | {str(number): SIZE // 30 for number in range(39)}
    assert laggards.find(0.01, landed.__getitem__) == []
    landed |= {str(number): SIZE // 2 for number in range(39)}
    assert keys(laggards.find(0.15, landed.__getitem__)) == ["slow"]


def test_bytes_that_did_not_come_twice_may_be_asked_for_again() -> None:
    laggards = after(100)
    begin(laggards, *(f"slow{number}" for number in range(60)))
    others(laggards)
    found = []
    for second in range(1, 30):
        late = laggards.find(1.0 + 0.01 * second)
        found += late
        for each in late:
            laggards.forget(each, 1000)
    assert len(found) == 60
    assert laggards.spent == 60 * 1000


def test_one_of_few_bytes_may_be_asked_for_again_at_the_beginning_of_a_load() -> None:
    laggards = after(8)
    begin(laggards, "slow", "slow, too")
    others(laggards)
    assert len(laggards.find(10.0)) == 1


def test_where_most_take_longer_than_before_none_lags_behind_the_others() -> None:
    laggards = after(40)
    begin(laggards, *map(str, range(40)))
    assert laggards.find(10.0) == []
