"""Who is missing when ranks do not meet."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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


def test_ranks_that_do_not_give_up_are_absent() -> None:
    store = PlayedStore()
    for rank in RANKS:
        RollCall(store, rank, RANKS).answer()
    store.set("4 gave up", "")
    assert RollCall(store, 3, RANKS).absent() == (5,)


def test_a_rank_whose_process_has_ended_is_at_fault_whoever_else_has_not_noticed_yet() -> None:
    store = PlayedStore()
    with process() as child:
        store.set("5 is", identity(child))
        kill(child)
        assert RollCall(store, 3, RANKS).absent() == (5,)


def test_a_rank_that_gave_up_and_then_ended_is_not_at_fault() -> None:
    store = PlayedStore()
    with process() as child, process() as other:
        store.set("4 is", identity(child))
        store.set("5 is", identity(other))
        store.set("4 gave up", "")
        kill(child)
        roll = RollCall(store, 3, RANKS)
        assert roll.has_given_up(4)
        assert roll.absent() == (5,)


def test_a_rank_that_died_has_not_given_up() -> None:
    store = PlayedStore()
    with process() as child:
        store.set("4 is", identity(child))
        kill(child)
        assert not RollCall(store, 3, RANKS).has_given_up(4)


def test_when_all_have_given_up_none_is_absent() -> None:
    store = PlayedStore()
    for rank in (4, 5):
        store.set(f"{rank} gave up", "")
    assert RollCall(store, 3, RANKS).absent() == ()


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
