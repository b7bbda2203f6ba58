"""Loads whose ranks share memory, in processes of their own."""

import os
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer.io.files import file_systems
from tests.distributed.ring import chaos, namespaces, programs
from tests.distributed_ranks import PATIENCE
from tests.test_distributed import COLUMNS, LARGE, ODD, SMALL, Outcomes, expected, folder, found, others, parts, run

__all__ = ["folder"]  # a fixture

TOTAL = sum(len(each.data) for each in LARGE.values())


def shared(outcome: dict[str, Any]) -> dict[str, Any]:
    """What a rank's report says of its part."""
    part: dict[str, Any] = outcome["report"]["shared"]
    return part


def test_what_is_in_the_page_cache_each_rank_copies_from_there(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    kind = file_systems.name(descriptor)
    os.close(descriptor)
    if kind not in file_systems.DIRECT | file_systems.IN_MEMORY:
        pytest.skip(f"on {kind} it is not asked what is in the page cache")
    for outcomes in run(folder, 2, "cached"):
        assert found(outcomes["warm"]) == expected(LARGE)
        assert outcomes["warm"]["known"]
        assert outcomes["warm"]["report"]["shared"] is None
        assert sum(outcomes["warm"]["read"]) == pytest.approx(TOTAL, rel=0.01)


@pytest.fixture(scope="module")
def in_groups(folder: Path) -> Outcomes:
    return run(folder, 4, "in_groups")


def test_two_groups_load_different_files_at_different_moments(in_groups: Outcomes) -> None:
    for rank, outcomes in enumerate(in_groups):
        assert found(outcomes["stage"]) == expected(LARGE if rank < 2 else COLUMNS)
        assert shared(outcomes["stage"])["ranks"] == ([0, 1] if rank < 2 else [2, 3])


def test_a_draft_model_and_a_group_across_two_others_wait_for_no_rank_outside(in_groups: Outcomes) -> None:
    for rank in (2, 3):
        assert found(in_groups[rank]["draft"]) == expected(ODD)
    for rank in (1, 2):
        assert found(in_groups[rank]["across"]) == expected(SMALL, LARGE)
    for outcomes in in_groups:
        assert found(outcomes["again"]) == expected(ODD)
        assert found(outcomes["all"]) == expected(LARGE)


def test_two_groups_load_at_once_in_the_same_processes(in_groups: Outcomes) -> None:
    for outcomes in in_groups:
        assert found(outcomes["at once"]) == expected(LARGE)
        assert outcomes["at once"]["threads"] == []


def test_a_rank_outside_a_group_is_told_so(in_groups: Outcomes) -> None:
    assert in_groups[0]["not mine"]["error"] == "ArgumentError"
    assert "rank 0 is not in the process group given as `group`" in in_groups[0]["not mine"]["text"]


def test_a_group_of_one_rank_reads_by_itself(in_groups: Outcomes) -> None:
    for outcomes in in_groups:
        assert found(outcomes["alone"]) == expected(SMALL)
        assert any("the process group has one rank" in line for line in outcomes["alone"]["lines"])


@pytest.fixture(scope="module")
def fan_out(folder: Path) -> Outcomes:
    return run(folder, 3, "fan_out")


@pytest.mark.parametrize("name", ["sockets", "memory"])
def test_ranks_share_memory_or_send_each_other_what_they_read(fan_out: Outcomes, name: str) -> None:
    for outcomes in fan_out:
        assert found(outcomes[name]) == expected(LARGE, ODD)
        part = shared(outcomes[name])
        assert part["memory"] is (name == "memory")
        came = {"memory": part["bytes_taken"], "sockets": part["bytes_received"]}
        assert came.pop(name) == pytest.approx(TOTAL * 2 / 3, rel=0.1)
        assert list(came.values()) == [0]
    assert sum(sum(outcomes[name]["read"]) for outcomes in fan_out) == pytest.approx(TOTAL, rel=0.01)


def test_ranks_that_should_broadcast_and_have_no_backend_for_it_are_told_so(fan_out: Outcomes) -> None:
    for outcomes in fan_out:
        assert outcomes["no backend"]["error"] == "DistributedError"
        assert "land on cpu, and torch has no backend for broadcasts there" in outcomes["no backend"]["text"]
        assert outcomes["not all"]["ranks"] == [1]
        assert "RUNAI_STREAMER_DIST_FANOUT: not device on rank 0, device on rank 1" in outcomes["not all"]["text"]


def test_ranks_that_get_no_shared_memory_use_sockets_and_say_so_once(fan_out: Outcomes) -> None:
    for outcomes in fan_out:
        assert found(outcomes["falls back"]) == expected(LARGE)
        assert found(outcomes["falls back again"]) == expected(ODD)
        told = [line for line in outcomes["falls back"]["lines"] if "cannot share memory" in line]
        assert len(told) == 1
        assert "(rank 1: File too large)" in told[0]
        assert not any("cannot share memory" in line for line in outcomes["falls back again"]["lines"])
        assert found(outcomes["afterwards"]) == expected(LARGE)
        assert shared(outcomes["afterwards"])["memory"]


def test_ranks_that_should_broadcast_and_cannot_connect_are_told_which_one(fan_out: Outcomes) -> None:
    for outcomes in fan_out:
        assert outcomes["cannot connect"]["ranks"] == [1]
        assert "rank 1 cannot connect with the others of its node: File too large" in outcomes["cannot connect"]["text"]


def test_memory_that_has_to_be_shared_and_cannot_is_an_error_that_names_the_rank(fan_out: Outcomes) -> None:
    for outcomes in fan_out:
        assert (outcomes["must not"]["error"], outcomes["must not"]["ranks"]) == ("DistributedError", [1])
        assert "rank 1 cannot share memory with the others of its node: File too large" in outcomes["must not"]["text"]


@pytest.fixture(scope="module")
def short_of_memory(folder: Path) -> Outcomes:
    return run(folder, 3, "short_of_memory")


def test_a_small_dev_shm_is_enough(short_of_memory: Outcomes) -> None:
    if any("small /dev/shm" not in outcomes for outcomes in short_of_memory):
        pytest.skip("this process may mount nothing")
    for outcomes in short_of_memory:
        assert found(outcomes["small /dev/shm"]) == expected(LARGE)
        assert shared(outcomes["small /dev/shm"])["memory"]


def test_ranks_of_which_one_is_short_of_memory_end_with_its_reason_or_get_all(short_of_memory: Outcomes) -> None:
    for name in [f"{headroom} MiB" for headroom in programs.HEADROOMS]:
        for rank, outcomes in enumerate(short_of_memory):
            outcome = outcomes[name]
            assert (outcome["threads"], outcome["mapped"]) == ([], 0)
            if "error" not in outcome:
                assert found(outcome) == expected(LARGE)
            elif rank != 1:
                assert (outcome["error"], outcome["ranks"]) == ("DistributedError", [1])
                assert "rank 1 failed: " in outcome["text"]
            else:
                assert outcome["error"] in ("OutOfMemoryError", "StreamerError")
                assert "no memory for" in outcome["text"] or "no thread to" in outcome["text"]
    assert "error" in short_of_memory[1]["1 MiB"]
    for outcomes in short_of_memory:
        assert found(outcomes["afterwards"]) == expected(LARGE)


@pytest.fixture(scope="module")
def paces(folder: Path) -> Outcomes:
    return run(folder, 4, "paces")


def test_ranks_of_different_pace_get_all_within_the_memory_that_they_may_hold(paces: Outcomes) -> None:
    for outcomes in paces:
        for name, most in (("least memory", 3_000_000), ("limited", 18_000_000 // 4), ("unlimited", 64 << 20)):
            assert found(outcomes[name]) == expected(LARGE)
            assert outcomes[name]["report"]["peak_memory"] <= most
        assert shared(outcomes["least memory"])["ring_bytes"] == 4 * 2 * (256 << 10)
        assert shared(outcomes["limited"])["ring_bytes"] <= 18_000_000 // 8 + 4 * 2 * 4096


def test_a_report_says_for_whom_a_rank_has_waited(paces: Outcomes) -> None:
    for outcomes in paces[:3]:
        waited = shared(outcomes["least memory"])["wait_seconds"]
        assert max(waited, key=waited.__getitem__) == "3"


def test_between_nodes_each_byte_goes_once_to_each_and_within_them_through_memory(folder: Path) -> None:
    ranks = run(folder, 6, "nodes_in_one")
    for outcomes in ranks:
        assert found(outcomes["globally"]) == expected(LARGE, ODD)
    assert sum(sum(each["globally"]["read"]) for each in ranks) == pytest.approx(TOTAL, rel=0.01)
    assert [shared(each["globally"])["memory"] for each in ranks] == [False, True, True, True, True, True]
    for node in ([0], [1, 2], [3, 4, 5]):
        parts_of = [shared(ranks[rank]["globally"]) for rank in node]
        came = sum(part["bytes_read"] + part["bytes_received"] for part in parts_of)
        assert came == pytest.approx(TOTAL, rel=0.01)
    for rank, outcomes in enumerate(ranks):
        assert found(outcomes["halves"]) == parts(LARGE, rank % 2, 2)


def test_network_namespaces_share_memory_within_and_sockets_between(folder: Path) -> None:
    try:
        with namespaces.two() as (one, other):
            ranks = run(folder, 4, "namespaces", **{namespaces.RANKS: f"{one},{one},{other},{other}"})
    except namespaces.NoNamespacesError:
        pytest.skip("this process may not make network namespaces")
    for name in ("node", "all"):
        for outcomes in ranks:
            assert found(outcomes[name]) == expected(LARGE, ODD)
            part = shared(outcomes[name])
            assert part["memory"]
            assert part["bytes_received"] == pytest.approx(TOTAL / 4, rel=0.1)
            assert part["bytes_taken"] == pytest.approx(TOTAL / 2, rel=0.1)
        assert sum(sum(outcomes[name]["read"]) for outcomes in ranks) == pytest.approx(TOTAL, rel=0.01)
    for rank, outcomes in enumerate(ranks):
        assert outcomes["memory"]["error"] == "DistributedError"
        assert "it is in another network namespace; leave it out to use sockets" in outcomes["memory"]["text"]
        told = [line for name in ("node", "all") for line in outcomes[name]["lines"] if "cannot share" in line]
        assert len(told) == 1
        assert f"(rank {0 if rank > 1 else 2}: it is in another network namespace)" in told[0]


def test_random_plans_of_eight_ranks_bring_each_what_it_would_read_by_itself(folder: Path) -> None:
    ranks = run(folder, 8, "plans")
    for number in range(programs.PLANS):
        assert [outcomes[f"plan {number}"]["equal"] for outcomes in ranks] == [True] * 8, f"plan {number}"


def test_a_rank_that_is_stopped_is_named_and_ends_when_it_goes_on(folder: Path) -> None:
    ranks = run(folder, 3, "stopped")
    for outcome in others(ranks, "stopped", 1):
        assert f"took no part for {PATIENCE} s" in outcome["text"]
    assert "rank 1 took no part" in ranks[1]["stopped"]["text"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_end_at_random_moments_end_all_others(ranks: int) -> None:
    lines: list[str] = []
    ways = ("killed", "leaves", "cannot read")
    assert chaos.main(len(ways) * ranks, ranks, seed=ranks, tell=lines.append, ways=ways) == [], "\n".join(lines)
