"""Who has come when ranks meet, and who is missing."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from runai_model_streamer.distributed.ranks.roll_call import RollCall, has_ended, identity

RANKS = (3, 4, 5)


class PlayedStore:
    """Torch's store, in one process."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self._values[key] = value

    def get(self, key: str) -> bytes:
        return self._values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        if not self.check(keys):
            raise RuntimeError(f"nobody sets {keys} in the next {timeout}")


class LostStore(PlayedStore):
    """Torch's store, whose process ends."""

    lost = False

    def check(self, keys: list[str]) -> bool:
        if self.lost:
            raise RuntimeError("connection reset")
        return super().check(keys)

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        self.lost = True
        super().wait(keys, timeout)


@contextmanager
def process() -> Iterator[int]:
    """A process that waits to be killed."""
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def kill(child: int) -> None:
    """Kill a process, and leave it to its parent to ask how it ended."""
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


def test_what_each_rank_says_is_known_when_all_have_come() -> None:
    store = PlayedStore()
    for rank in RANKS:
        RollCall(store, rank, RANKS).answer(f"node {rank}\nof two lines")
    assert RollCall(store, 3, RANKS).answers(600) == {4: "node 4\nof two lines", 5: "node 5\nof two lines"}


def test_a_rank_that_does_not_come_is_waited_for_no_longer_than_it_has_time() -> None:
    store = PlayedStore()
    RollCall(store, 4, RANKS).answer("")
    with pytest.raises(RuntimeError, match="rank 5 did not come within 0 s"):
        RollCall(store, 3, RANKS).answers(0)


@pytest.mark.parametrize("late", [(5,), ()])
def test_a_rank_that_came_and_has_ended_is_found_while_another_is_late_and_when_none_is(late: tuple[int, ...]) -> None:
    store = PlayedStore()
    with process() as child:
        store.set("4 is", f"{identity(child)}\n")
        if not late:
            RollCall(store, 5, RANKS).answer("")
        kill(child)
        roll = RollCall(store, 3, RANKS)
        with pytest.raises(RuntimeError, match="the process of rank 4 has ended"):
            roll.answers(600)
        assert roll.absent(RANKS) == (4,)


def test_a_rank_that_kept_the_store_and_has_ended_is_named() -> None:
    store = LostStore()
    with process() as child:
        store.set("4 is", f"{identity(child)}\n")
        roll = RollCall(store, 3, RANKS)
        with pytest.raises(RuntimeError, match="connection reset"):
            roll.answers(600)
        assert roll.absent(RANKS) == ()
        kill(child)
        assert roll.absent(RANKS) == (4,)


def test_ranks_of_other_nodes_are_not_absent_from_this_one() -> None:
    assert RollCall(PlayedStore(), 3, RANKS).absent((3, 4)) == (4,)


def test_ranks_that_do_not_give_up_are_absent() -> None:
    store = PlayedStore()
    for rank in RANKS:
        RollCall(store, rank, RANKS).answer("")
    store.set("4 gave up", "")
    assert RollCall(store, 3, RANKS).absent(RANKS) == (5,)


def test_a_rank_whose_process_has_ended_is_at_fault_whoever_else_has_not_noticed_yet() -> None:
    store = PlayedStore()
    with process() as child:
        store.set("5 is", f"{identity(child)}\n")
        kill(child)
        assert RollCall(store, 3, RANKS).absent(RANKS) == (5,)


def test_a_rank_that_gave_up_and_then_ended_is_not_at_fault() -> None:
    store = PlayedStore()
    with process() as child, process() as other:
        store.set("4 is", f"{identity(child)}\n")
        store.set("5 is", f"{identity(other)}\n")
        store.set("4 gave up", "")
        kill(child)
        roll = RollCall(store, 3, RANKS)
        assert roll.has_given_up(4)
        assert roll.absent(RANKS) == (5,)


@pytest.mark.parametrize("question", ["absent", "has given up"])
def test_a_rank_that_gives_up_and_ends_while_it_is_looked_for_is_not_at_fault(question: str) -> None:
    with process() as child:

        class HastyStore(PlayedStore):
            def check(self, keys: list[str]) -> bool:
                there = super().check(keys)
                if keys == ["4 gave up"] and not there:
                    self.set("4 gave up", "")
                    kill(child)
                return there

        store = HastyStore()
        store.set("4 is", f"{identity(child)}\n")
        roll = RollCall(store, 3, RANKS)
        assert roll.absent((3, 4)) == () if question == "absent" else roll.has_given_up(4)


def test_a_rank_that_died_has_not_given_up() -> None:
    store = PlayedStore()
    with process() as child:
        store.set("4 is", f"{identity(child)}\n")
        kill(child)
        assert not RollCall(store, 3, RANKS).has_given_up(4)


def test_when_all_have_given_up_none_is_absent() -> None:
    store = PlayedStore()
    for rank in (4, 5):
        store.set(f"{rank} gave up", "")
    assert RollCall(store, 3, RANKS).absent(RANKS) == ()


def test_a_process_has_ended_when_it_is_no_more_or_its_number_is_anothers() -> None:
    assert not has_ended(identity())
    with process() as child:
        name = identity(child)
        assert not has_ended(name)
        kill(child)
        assert has_ended(name)
    assert has_ended(name)
    processes, number, _ = identity().rsplit(" ", 2)
    assert has_ended(f"{processes} {number} 1")


def test_of_a_process_that_cannot_be_seen_nothing_is_known() -> None:
    _, number, start = identity().rsplit(" ", 2)
    assert not has_ended(f"another machine {number} {int(start) + 1}")
