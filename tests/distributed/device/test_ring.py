"""Ranks that broadcast what they read: on a backend of the tests' own, in many orders, with faults planted."""

import threading

import pytest

from runai_model_streamer.distributed.device.turns import Turns
from tests.distributed.device.played import LateLane, World

SEEDS = 500
BATCHES = 10
TRIES = 50
"""Orders in which a planted fault has to be found at least once."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_in_500_orders_each_rank_gets_what_it_needs_and_nothing_is_misused(batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        assert World(seed).run() == [], f"seed {seed}"
    assert not any(each.name == "runai-broadcasts" for each in threading.enumerate())


class Jumping(Turns):
    """Rank 1 issues every second broadcast before the first."""

    def next_to_issue(self) -> int | None:
        turn = super().next_to_issue()
        if turn is None or self._me != 1 or turn ^ 1 >= len(self.roots):
            return turn
        return turn ^ 1 if (turn | 1) < self.allowed or turn & 1 else None


class Careless(Turns):
    """What one rank could do is allowed, whatever the others have promised."""

    def allow(self) -> bool:
        before, self.allowed = (
            self.allowed,
            max(self.allowed, self.promised, min(len(self.roots), self.run + self.slots)),
        )
        return self.allowed > before


class Greedy(Turns):
    """Slots count as free as soon as their broadcast has run, though readers still copy from them."""

    def may_load(self, turn: int) -> bool:
        return turn < self.run + self.slots


class Hasty(LateLane):
    """A broadcast does not wait for the upload of what it sends."""

    def wait_for(self, event: threading.Event | None) -> None:
        super().wait_for(None)


class Eager(LateLane):
    """A broadcast counts as run when it has been issued."""

    def has_run(self, work: object) -> bool:
        return True


def found(order: type[Turns] = Turns, lane: type[LateLane] = LateLane) -> str:
    """The first thing that was wrong, in any of some orders."""
    for seed in range(TRIES):
        wrong = World(seed, order, lane, patience=10.0).run()
        if wrong:
            return wrong[0]
    return ""


def test_a_broadcast_out_of_order_is_found() -> None:
    assert found(order=Jumping).startswith("order: broadcast")


def test_a_broadcast_that_not_all_ranks_have_promised_is_found() -> None:
    assert found(order=Careless)


def test_a_slot_that_is_used_again_while_it_is_read_is_found() -> None:
    assert "saw something else" in found(order=Greedy)


def test_a_broadcast_that_does_not_wait_for_its_upload_is_found() -> None:
    assert "saw something else" in (wrong := found(lane=Hasty)) or wrong.startswith("lifetime")


def test_bytes_that_are_read_before_their_broadcast_has_run_are_found() -> None:
    assert "saw something else" in found(lane=Eager)
