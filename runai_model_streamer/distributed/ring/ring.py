"""The ring: shared memory through which a rank passes the bytes that it has read to the others; see the package."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from runai_model_streamer.distributed.ranks.peers import TIMED_OUT, Peers
from runai_model_streamer.distributed.ring.blocks import Block, bits
from runai_model_streamer.distributed.ring.links import GOODBYE, READY, TAKEN, Links
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.errors import StreamerError

_Blamed: TypeAlias = Callable[[], int | None]
"""Returns the rank that must act next; None for this rank, whose caller has no time limit."""


class Ring:
    """This rank's end of the ring. Thread safe.

    Args:
        peers: the ranks of the load.
        blocks: all blocks of the load.
        fillers: the fillers of each block; see `blocks.deal_out`.
        slots: index of each rank of this one's domain -> its slots, this one's among them. Emptied by `close`.
        needed: number of each block that this rank takes -> bytes that it will copy of it.
    """

    def __init__(
        self,
        peers: Peers,
        blocks: Sequence[Block],
        fillers: Sequence[tuple[int, ...]],
        slots: dict[int, Slots],
        needed: Mapping[int, int],
    ) -> None:
        self._peers = peers
        self._blocks = blocks
        self._slots = slots
        self._me = me = peers.index
        self._links: Links | None = None
        self.domain = tuple(slots)
        """Indices of the ranks that share memory with this one, and its own."""
        domain = sum(1 << each for each in slots)
        self._tasks: list[int] = []
        self._place: dict[int, tuple[int, int]] = {}
        self._untaken: dict[int, int] = {}
        self._last_taker: dict[int, int] = {}
        filled = Counter[int]()
        for number, each in enumerate(fillers):
            for filler in each:
                if not domain >> filler & 1:
                    continue
                slot = filled[filler] % slots[filler].count
                filled[filler] += 1
                if filler == me:
                    self._tasks.append(number)
                    self._untaken[number] = blocks[number].takers & domain
                if blocks[number].takers >> me & 1:
                    self._place[number] = (filler, slot)
        self._next = 0
        self._unfilled = len(self._tasks)
        self._lock = threading.Lock()
        self._leaving = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)
        self._ready: set[int] = set()
        self._left = {number: needed.get(number, 0) for number in self._place}
        self._said_goodbye = False
        self._running = True
        self._error: StreamerError | None = None
        self._lost: tuple[int, str] | None = None
        self.waited: dict[int, float] = {}
        """Rank -> thread-seconds that this rank has waited for it: to fill a block, or as the last to take one."""
        self.taken = 0
        """Bytes copied from blocks that others have filled."""

    def connect(self, links: Links | None) -> None:
        """Begin. `links` connects to the other ranks of the domain, and calls `received` and `lost`."""
        self._links = links
        if links is not None:
            links.start()
        for number in [number for number, length in self._left.items() if not length]:
            self._let_go(number)
        self._say_goodbye_if_done()

    @property
    def complete(self) -> bool:
        """Whether this rank has all that it needs, and has filled all its blocks."""
        return not self._left and not self._unfilled

    @property
    def tasks(self) -> int:
        """Number of blocks that this rank fills."""
        return len(self._tasks)

    def claim(self) -> int | None:
        """Wait for the slot of the next block to fill. Return the block's number; None if there are no more.

        Raises as `lend` does.
        """
        with self._lock:
            place = self._next
            if place == len(self._tasks):
                return None
            self._next += 1
        before = place - self._slots[self._me].count
        if before >= 0:
            earlier = self._tasks[before]
            seconds = self._wait(self._freed, lambda: not self._untaken[earlier], lambda: self._holder(earlier))
            self.count_wait(self._last_taker[earlier], seconds)
        return self._tasks[place]

    def _holder(self, number: int) -> int | None:
        """Return the first other rank that must still take a block; None if only this one must."""
        ranks = [self._peers.ranks[each] for each in bits(self._untaken[number]) if each != self._me]
        return ranks[0] if ranks else None

    def slot(self, number: int) -> memoryview:
        """Return the memory to fill with a claimed block."""
        filler, slot = self._place[number]
        return self._slots[filler].slot(slot, self._blocks[number].length)

    def publish(self, number: int) -> None:
        """Tell the others of the domain that the block is filled. Raises as `lend` does."""
        for other in bits(self._untaken[number]):
            if other != self._me:
                self._send(other, READY, number)

    def finish(self, number: int) -> None:
        """Let this rank take the block, too. Call it once the block is filled, and sent to all other domains."""
        with self._lock:
            self._unfilled -= 1
            self._ready.add(number)
            self._arrived.notify_all()  # `drain`, too
        self._say_goodbye_if_done()

    def lend(self, number: int, start: int, length: int) -> memoryview:
        """Wait for a block, and return its bytes from `start` on. They stay as they are until `give_back`.

        Raises:
            DistributedError: another rank has died, failed, left, or taken no part for longer than the timeout.
            StreamerError: this rank's own read for the others failed.
            Stopped: this rank has ended the load itself.
        """
        filler, slot = self._place[number]
        blamed = None if filler == self._me else self._peers.ranks[filler]
        self.count_wait(filler, self._wait(self._arrived, lambda: number in self._ready, lambda: blamed))
        return self._slots[filler].slot(slot, start + length)[start:]

    def give_back(self, number: int, length: int) -> None:
        """Note that this rank has so many more bytes of a block; each byte once. Raises as `lend` does."""
        filler, _ = self._place[number]
        with self._lock:
            self._left[number] -= length
            done = not self._left[number]
            if filler != self._me:
                self.taken += length
        if done:
            self._let_go(number)
            self._say_goodbye_if_done()

    def is_own(self, number: int) -> bool:
        """Return whether this rank fills a block that it takes."""
        return self._place[number][0] == self._me

    def _let_go(self, number: int) -> None:
        filler, _ = self._place[number]
        if filler == self._me:
            self._release(number, self._me)
        else:
            self._send(filler, TAKEN, number)
        with self._lock:
            del self._left[number]
            self._ready.discard(number)

    def _release(self, number: int, taker: int) -> None:
        with self._lock:
            self._untaken[number] &= ~(1 << taker)
            if not self._untaken[number]:
                self._last_taker[number] = taker
                self._freed.notify_all()

    def _say_goodbye_if_done(self) -> None:
        with self._leaving:  # which `stop` waits for
            if self._links is None or self._said_goodbye or not (self.complete and self._running):
                return
            self._said_goodbye = True
            for other in self.domain:
                if other != self._me:
                    self._links.send(other, GOODBYE)

    def _send(self, other: int, kind: int, number: int) -> None:
        assert self._links is not None
        if not self._links.send(other, kind, number):
            raise self._peers.failure(self._peers.ranks[other], TimeoutError(TIMED_OUT))

    def received(self, sender: int, kind: int, number: int) -> None:
        """Handle a message from another rank."""
        if kind == READY:
            with self._lock:
                if number in self._left:
                    self._ready.add(number)
                    self._arrived.notify_all()
        elif kind == TAKEN:
            self._release(number, sender)

    def lost(self, other: int, why: str) -> None:
        """Note that the connection to a rank of the domain has closed without a goodbye, and end."""
        with self._lock:
            if self._running and not self.complete:
                self._lost = (self._peers.ranks[other], why)
                self._stop()

    def fail(self, error: StreamerError) -> None:
        """Note that this rank's read for the others has failed. After `stop`, all waits here raise this error."""
        with self._lock:
            self._error = self._error or error

    def stop(self) -> None:
        """Wake all waits: here, and by closed connections on the domain's other ranks. Idempotent."""
        with self._lock:
            self._stop()
        with self._leaving:
            if self._links is not None:
                self._links.hang_up()

    def _stop(self) -> None:
        self._running = False
        self._arrived.notify_all()
        self._freed.notify_all()

    def close(self) -> None:
        """Stop, close the connections, and release the memory, which goes with its last reader. Idempotent.

        Claim or lend no block afterwards.
        """
        self.stop()
        if self._links is not None:
            self._links.close()
        self._slots.clear()

    def drain(self) -> None:
        """If this rank has all that it needs itself, wait until it has filled its last block, or the load has ended."""
        with self._lock:
            while self._running and not self._left and self._unfilled:
                self._arrived.wait()

    def _wait(
        self, condition: threading.Condition, done: Callable[[], bool], blamed: Callable[[], int | None]
    ) -> float:
        """Wait until `done`, for the rank that is `blamed` no longer than the timeout. Return the seconds waited."""
        late, began = None, 0.0
        with self._lock:
            if self._running and not done():
                began = time.monotonic()
            while late is None and self._running and not done():
                rank = blamed()
                if rank is None:
                    condition.wait()
                elif not self._wait_for(rank, condition, done, blamed):
                    late = rank
            running = self._running or done()
        if late is not None:
            raise self._peers.failure(late, TimeoutError(TIMED_OUT))
        if not running:
            self._raise_ended()
        return time.monotonic() - began if began else 0.0

    def _wait_for(self, rank: int, condition: threading.Condition, done: Callable[[], bool], blamed: _Blamed) -> bool:
        """Wait until `done`, or until another rank is to blame. Return whether that was in time."""
        deadline = time.monotonic() + self._peers.timeout.total_seconds()
        with self._peers.waiting_for(rank):
            while self._running and not done() and blamed() == rank:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                condition.wait(left)
        return True

    def count_wait(self, index: int, seconds: float) -> None:
        """Count seconds that this rank has waited for another, by its index."""
        if seconds and index != self._me:
            rank = self._peers.ranks[index]
            with self._lock:
                self.waited[rank] = self.waited.get(rank, 0.0) + seconds

    def _raise_ended(self) -> None:
        if self._error is not None:
            raise self._error
        others = [rank for rank in self._peers.ranks if rank != self._peers.rank]
        rank, why = self._lost or (others[0], "the load has ended")
        raise self._peers.failure(rank, RuntimeError(why))
