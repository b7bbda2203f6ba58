"""Which requests are asked for a second time, on a clock of the test's."""

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
    assert len(found) == 5
    assert laggards.spent == 5 * SIZE


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
