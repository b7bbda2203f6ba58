"""The order of broadcasts: what a rank promises, what the leader allows, and who is to blame."""

import random

import pytest

from runai_model_streamer.distributed.device.turns import Turns


def exchanged(ranks: dict[int, Turns]) -> None:
    """All that has been promised is told, and all that is allowed."""
    leader = ranks[min(ranks)]
    for index, turns in ranks.items():
        turns.promise()
        if turns is not leader:
            leader.hear_promise(index, turns.promised)
    leader.allow()
    for turns in ranks.values():
        turns.hear_allowed(leader.allowed)


def test_a_rank_promises_what_it_has_slots_for_and_has_uploaded() -> None:
    turns = Turns(1, (0, 1), [0, 0, 1, 0, 0], slots=4)
    assert turns.promise()
    assert turns.promised == 2
    turns.loaded(2)
    assert turns.promise()
    assert turns.promised == 4
    assert not turns.promise()
    turns.freed(1)
    assert not turns.promise()
    turns.freed(0)
    assert turns.promise()
    assert turns.promised == 5


def test_a_root_may_upload_into_a_slot_only_when_all_of_the_broadcast_before_has_been_taken() -> None:
    turns = Turns(0, (0, 1), [0] * 5, slots=2)
    assert [turns.may_load(turn) for turn in range(4)] == [True, True, False, False]
    turns.freed(0)
    assert turns.may_load(2)
    assert not turns.may_load(3)


def test_only_what_all_have_promised_is_allowed_and_issued() -> None:
    ranks = {index: Turns(index, (3, 5, 8), [5, 8, 3, 5], slots=4) for index in (3, 5, 8)}
    exchanged(ranks)
    assert [turns.next_to_issue() for turns in ranks.values()] == [None] * 3
    ranks[5].loaded(0)
    exchanged(ranks)
    assert [turns.allowed for turns in ranks.values()] == [1, 1, 1]
    for turns in ranks.values():
        assert turns.next_to_issue() == 0
        turns.issued += 1
        assert turns.next_to_issue() is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_of_news_no_rank_gets_ahead_of_a_promise_and_all_come_to_the_end(seed: int) -> None:
    chance = random.Random(seed)
    domain = tuple(sorted(chance.sample(range(8), chance.randint(2, 5))))
    roots = [chance.choice(domain) for _ in range(30)]
    ranks = {index: Turns(index, domain, roots, chance.randint(1, 6)) for index in domain}
    leader = ranks[min(domain)]
    to_load = {index: [turn for turn, root in enumerate(roots) if root == index] for index in domain}
    for _ in range(20_000):
        index = chance.choice(domain)
        turns = ranks[index]
        if to_load[index] and turns.may_load(to_load[index][0]):
            turns.loaded(to_load[index].pop(0))
        if chance.random() < 0.5:
            turns.promise()
        if turns is not leader and chance.random() < 0.5:
            leader.hear_promise(index, turns.promised)
        leader.allow()
        if chance.random() < 0.5:
            turns.hear_allowed(leader.allowed)
        if (turn := turns.next_to_issue()) is not None:
            assert all(turn < each.promised for each in ranks.values())
            turns.issued += 1
        if turns.run < min(each.issued for each in ranks.values()) and chance.random() < 0.5:
            turns.freed(turns.run)
            turns.run += 1
    assert {each.run for each in ranks.values()} == {len(roots)}


def test_the_rank_to_blame_is_the_one_that_has_to_act_next() -> None:
    ranks = {index: Turns(index, (0, 1, 2), [1, 2], slots=2) for index in range(3)}
    exchanged(ranks)
    assert [turns.waits_for() for turns in ranks.values()] == [[], [], []] or ranks[0].waits_for() == [1]
    ranks[2].loaded(1)
    exchanged(ranks)
    assert ranks[0].waits_for() == [1]
    assert ranks[1].waits_for() == []  # its own read
    assert ranks[2].waits_for() == [0]  # which says that it waits for rank 1
    ranks[1].loaded(0)
    exchanged(ranks)
    ranks[0].issued = 2
    assert ranks[0].waits_for() == [1, 2]  # either may have been stopped


def test_a_group_is_needed_until_all_broadcasts_have_run_on_all_ranks() -> None:
    turns = Turns(0, (0, 1, 2), [0], slots=1)
    for index in (0, 2):
        turns.all_have_run(index)
        assert not turns.over
    turns.issued = turns.run = 1
    assert turns.waits_for() == [1]
    turns.all_have_run(1)
    assert turns.over
