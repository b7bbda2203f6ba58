"""One rank's end of the ring, whose other ends are played: order, release, and each way to come to an end."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest

from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import Block
from runai_model_streamer.distributed.ring.links import GOODBYE, READY, TAKEN, Links
from runai_model_streamer.distributed.ring.ring import Ring
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.errors import DistributedError, ReadError
from runai_model_streamer.ranges import PAGE


class PlayedPeers:
    """Ranks 10, 11 and 12, of which this one is 10."""

    def __init__(self, timeout: float) -> None:
        self.ranks, self.rank, self.index = (10, 11, 12), 10, 0
        self.timeout = timedelta(seconds=timeout)
        self.failures: list[tuple[int, str]] = []

    def waiting_for(self, *ranks: int) -> Any:
        return threading.Lock()

    def failure(self, rank: int, error: Exception) -> DistributedError:
        self.failures.append((rank, str(error)))
        return DistributedError(f"rank {rank}", (rank,))


class PlayedLinks:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, int]] = []
        self.hung_up = False

    def start(self) -> None:
        pass

    def send(self, other: int, kind: int, number: int = 0) -> bool:
        self.sent.append((other, kind, number))
        return True

    def hang_up(self) -> None:
        self.hung_up = True

    def close(self) -> None:
        self.hung_up = True


class Played:
    """A ring of two slots for each rank, through which all three take six blocks; rank 10 fills the even ones."""

    def __init__(self, timeout: float = 30.0, needed: int = PAGE) -> None:
        blocks = [Block(0, number * PAGE, PAGE, 0b111) for number in range(6)]
        self.slots = {index: Slots(2, PAGE) for index in range(3)}
        self.peers, self.links = PlayedPeers(timeout), PlayedLinks()
        fillers = [(0,), (1,)] * 3
        wanted = dict.fromkeys(range(6), needed) if needed else {}
        self.ring = Ring(cast(Peers, self.peers), blocks, fillers, dict(self.slots), wanted)
        self.ring.connect(cast(Links, self.links))

    def fill(self) -> int:
        """Fill the next block of this rank."""
        number = self.ring.claim()
        assert number is not None
        self.ring.slot(number)[:] = bytes([number]) * PAGE
        self.ring.publish(number)
        self.ring.finish(number)
        return number

    def copied(self, number: int, length: int = PAGE, start: int = 0) -> bytes:
        """Bytes of a block, as this rank takes them."""
        found = bytes(self.ring.lend(number, start, length))
        self.ring.give_back(number, length)
        return found


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.ring.close()


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run it elsewhere; what it returned, or raised, is in the list when the thread has ended."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_blocks_are_filled_in_order_and_told_to_those_that_take_them(played: Played) -> None:
    assert [played.fill(), played.fill()] == [0, 2]
    assert played.links.sent == [(1, READY, 0), (2, READY, 0), (1, READY, 2), (2, READY, 2)]
    assert played.copied(2) == b"\2" * PAGE


def test_a_slot_is_filled_again_only_when_all_have_taken_what_was_in_it(played: Played) -> None:
    played.fill(), played.fill()
    thread, found = in_thread(played.ring.claim)
    played.copied(0)
    played.ring.received(1, TAKEN, 0)
    thread.join(0.2)
    assert thread.is_alive()
    assert not found
    played.ring.received(2, TAKEN, 0)
    thread.join()
    assert found == [4]
    assert list(played.ring.waited) == [12]  # it was the last to take


def test_a_block_of_another_rank_is_waited_for_and_given_back_when_all_of_it_has_been_copied(played: Played) -> None:
    thread, found = in_thread(lambda: played.copied(1, PAGE - 1, 1))
    played.slots[1].slot(0, PAGE)[:] = bytes(range(256)) * 16
    played.ring.received(1, READY, 1)
    thread.join()
    assert found == [(bytes(range(256)) * 16)[1:]]
    assert played.links.sent == []
    assert played.copied(1, 1) == b"\0"
    assert played.links.sent == [(1, TAKEN, 1)]
    assert played.ring.taken == PAGE


def test_a_rank_that_has_all_and_has_filled_all_says_goodbye_once(played: Played) -> None:
    for number in range(6):
        if number % 2:
            played.ring.received(1, READY, number)
            played.copied(number)
        else:
            played.fill()
            played.copied(number)
            played.ring.received(1, TAKEN, number)
            played.ring.received(2, TAKEN, number)
        assert played.ring.complete is (number == 5)
    assert [message for message in played.links.sent if message[1] == GOODBYE] == [(1, GOODBYE, 0), (2, GOODBYE, 0)]
    played.ring.lost(1, "gone")
    assert played.peers.failures == []


def test_blocks_of_which_a_rank_copies_nothing_are_given_back_at_once_and_filled_all_the_same() -> None:
    played = Played(needed=0)
    assert played.links.sent == [(1, TAKEN, 1), (1, TAKEN, 3), (1, TAKEN, 5)]
    thread, _ = in_thread(played.ring.drain)
    for _ in range(3):
        number = played.fill()
        played.ring.received(1, TAKEN, number)
        played.ring.received(2, TAKEN, number)
    thread.join()
    assert played.ring.complete
    assert played.ring.claim() is None
    played.ring.close()


def test_a_lost_rank_wakes_what_waits_for_it_with_whose_fault_it_is(played: Played) -> None:
    thread, found = in_thread(lambda: played.copied(1))
    played.ring.lost(2, "its connection has closed")
    thread.join()
    assert isinstance(found[0], DistributedError)
    assert played.peers.failures == [(12, "its connection has closed")]


def test_what_has_been_filled_before_a_rank_was_lost_can_still_be_taken(played: Played) -> None:
    played.ring.received(1, READY, 1)
    played.ring.lost(1, "its connection has closed")
    assert played.copied(1) == bytes(PAGE)


def test_a_failed_read_of_this_rank_is_what_its_own_readers_raise(played: Played) -> None:
    thread, found = in_thread(lambda: played.copied(0))
    error = ReadError("the disk is on fire")
    played.ring.fail(error)
    played.ring.stop()
    thread.join()
    assert found == [error]
    assert played.links.hung_up


@pytest.mark.parametrize("wait", ["for a block", "for a slot"])
def test_a_rank_is_waited_for_no_longer_than_the_timeout(wait: str) -> None:
    played = Played(timeout=0.1)
    if wait == "for a slot":
        played.fill(), played.fill()
        played.copied(0)
        played.ring.received(1, TAKEN, 0)
    with pytest.raises(DistributedError):
        played.ring.claim() if wait == "for a slot" else played.copied(1)
    assert played.peers.failures == [(12 if wait == "for a slot" else 11, "Timed out")]
    played.ring.close()


def test_this_ranks_own_caller_may_take_its_time() -> None:
    played = Played(timeout=0.05)
    played.fill(), played.fill()
    for other in (1, 2):
        played.ring.received(other, TAKEN, 0)
    thread, found = in_thread(played.ring.claim)
    thread.join(0.3)
    assert thread.is_alive()
    played.copied(0)
    thread.join()
    assert found == [4]
    played.ring.close()
