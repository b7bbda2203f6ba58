"""Loads whose ranks broadcast to each other, in processes of their own."""

from pathlib import Path

import pytest

from tests.distributed.ring import chaos, programs
from tests.distributed.ring.test_ranks import shared
from tests.test_distributed import LARGE, ODD, Outcomes, expected, folder, found, others, parts, run

__all__ = ["folder"]  # a fixture

TOTAL = sum(len(each.data) for each in LARGE.values())


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Outcomes:
    return run(folder, 4, "between_devices")


@pytest.mark.parametrize("name", ["large", "warm"])
def test_each_byte_is_read_once_and_broadcast_also_if_it_is_in_the_page_cache(ranks: Outcomes, name: str) -> None:
    for outcomes in ranks:
        assert found(outcomes[name]) == expected(*[LARGE, ODD][: 2 - (name == "warm")])
        part = shared(outcomes[name])
        assert (part["device"], part["memory"]) == (True, False)
        assert part["bytes_read"] == pytest.approx(TOTAL / 4, rel=0.1)
        assert part["bytes_taken"] == pytest.approx(TOTAL * 3 / 4, rel=0.1)
        assert outcomes[name]["threads"] == []
        assert outcomes[name]["mapped"] == 0
    assert sum(sum(outcomes[name]["read"]) for outcomes in ranks) == pytest.approx(TOTAL, rel=0.01)


def test_ranks_of_different_pace_all_get_all_through_two_slots(ranks: Outcomes) -> None:
    for outcomes in ranks:
        assert found(outcomes["least memory"]) == expected(LARGE)


def test_a_rank_that_raises_ends_the_load_of_all(ranks: Outcomes) -> None:
    for outcome in others(ranks, "raises", 2):
        assert outcome["ranks"] == [2]
        assert "rank 2 failed: ValueError: the caller's own trouble" in outcome["text"]


def test_ranks_that_want_other_parts_take_part_in_broadcasts_that_they_do_not_need(ranks: Outcomes) -> None:
    for rank, outcomes in enumerate(ranks):
        assert found(outcomes["halves"]) == parts(LARGE, rank % 2, 2)


def test_between_nodes_bytes_go_through_sockets_and_within_them_by_broadcasts(ranks: Outcomes) -> None:
    for outcomes in ranks:
        for name in ("one", "other"):
            assert found(outcomes[f"two nodes, {name}"]) == expected(LARGE)
            assert shared(outcomes[f"two nodes, {name}"])["device"]
        assert shared(outcomes["two nodes, other"])["bytes_received"] == pytest.approx(TOTAL / 4, rel=0.2)
    for name, times in (("one", 2), ("other", 1)):
        read = sum(sum(outcomes[f"two nodes, {name}"]["read"]) for outcomes in ranks)
        assert read == pytest.approx(TOTAL * times, rel=0.01)


def test_random_plans_bring_each_rank_what_it_would_read_by_itself(ranks: Outcomes) -> None:
    for number in range(programs.DEVICE_PLANS):
        assert [outcomes[f"plan {number}"]["equal"] for outcomes in ranks] == [True] * 4, f"plan {number}"


def test_ranks_that_end_at_random_moments_end_all_others() -> None:
    lines: list[str] = []
    ways = ("killed", "leaves", "cannot read")
    wrong = chaos.main(len(ways) * 3, 3, seed=3, tell=lines.append, ways=ways, fan_out="device")
    assert wrong == [], "\n".join(lines)


def test_a_rank_that_is_stopped_is_named() -> None:
    lines: list[str] = []
    wrong = chaos.main(2, 3, seed=5, tell=lines.append, ways=("stopped",), fan_out="device")
    assert wrong == [], "\n".join(lines)
