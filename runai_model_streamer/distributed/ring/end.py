"""One rank's end of a ring: what it waits for, which rank it blames for a long wait, and how it comes to its end."""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

import torch

from runai_model_streamer.distributed.ranks.peers import TIMED_OUT, Peers
from runai_model_streamer.distributed.ring.links import GOODBYE, Links
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.threads.signals import wait_for_change

Blamed: TypeAlias = Callable[[], Sequence[int]]
"""Returns the ranks of which one must act next; none for this rank, whose caller has no time limit."""


class RingEnd(ABC):
    """This rank's end of a ring. Thread safe.

    A filler thread claims a block, fills its slot, publishes it, and finishes it once it has been sent to all other
    domains. A reader thread is lent a block, and gives it back. A connection's thread calls `received` and `lost`.

    Args:
        peers: the ranks of the load.
        domain: indices of the ranks that pass each other blocks through this ring.
        slots: index of a rank -> its slots in host memory, this one's among them. Emptied by `close`.
    """

    on_device = False
    """Whether blocks are lent on a device."""

    def __init__(self, peers: Peers, domain: tuple[int, ...], slots: dict[int, Slots]) -> None:
        self._peers = peers
        self._me = peers.index
        self.domain = domain
        """Indices of the ranks of the ring, this one among them."""
        self._slots, self._own_slots = slots, slots[self._me].count
        self._tasks: Sequence[int] = ()
        """Numbers of the blocks that this rank fills, in order. Subclasses set it, and `_left`."""
        self._claimed = 0
        self._left: dict[int, int] = {}
        """Number of each block that this rank needs -> bytes that it has not taken yet."""
        self._links: Links | None = None
        self._lock = threading.Lock()
        self._leaving = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)
        self._said_goodbye = False
        self._running = True
        self._error: StreamerError | None = None
        self._lost: tuple[int, str] | None = None
        self.waited: dict[int, float] = {}
        """Rank -> thread-seconds that this rank has waited for it: to fill a block, or as the last to take one."""
        self.taken = 0
        """Bytes copied from blocks that others have filled."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether this rank has all that it needs, and the others need nothing more of it."""

    @property
    def tasks(self) -> int:
        """Number of blocks that this rank fills."""
        return len(self._tasks)

    def connect(self, links: Links | None) -> None:
        """Begin. `links` connects to the other ranks of the domain, and calls `received` and `lost`."""
        self._links = links
        if links is not None:
            links.start()

    def claim(self) -> int | None:
        """Wait for the slot of the next block to fill. Return the block's number; None if there are no more.

        Raises as `lend` does.
        """
        with self._lock:
            place = self._claimed
            if place == len(self._tasks):
                return None
            self._claimed += 1
        if place >= self._own_slots:
            self._await_slot_of(self._tasks[place - self._own_slots])
        return self._tasks[place]

    @abstractmethod
    def _await_slot_of(self, number: int) -> None:
        """Wait until nobody needs the slot of a block that this rank has filled any more."""

    @abstractmethod
    def slot(self, number: int) -> memoryview:
        """Return the memory to fill with a claimed block."""

    @abstractmethod
    def publish(self, number: int) -> None:
        """Offer the filled block to the others of the domain. Raises as `lend` does."""

    @abstractmethod
    def finish(self, number: int) -> None:
        """Note that the block has been filled, and sent to all other domains."""

    @abstractmethod
    def lend(self, number: int, start: int, length: int) -> memoryview | torch.Tensor:
        """Wait for a block, and return its bytes from `start` on. They stay as they are until `give_back`.

        Raises:
            DistributedError: another rank has died, failed, left, or taken no part for longer than the timeout.
            StreamerError: this rank's own read for the others failed.
            Stopped: this rank has ended the load itself.
        """

    @abstractmethod
    def give_back(self, number: int, length: int) -> None:
        """Note that this rank has so many more bytes of a block; each byte once. Raises as `lend` does."""

    @abstractmethod
    def is_own(self, number: int) -> bool:
        """Return whether this rank fills a block that it takes."""

    @abstractmethod
    def received(self, sender: int, kind: int, number: int) -> None:
        """Handle a message from another rank."""

    def drain(self) -> None:
        """If this rank has all that it needs, wait until the others need nothing more of it, or the load has ended."""
        with self._lock:
            while self._running and not self._left and not self.complete:
                wait_for_change(self._arrived)

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

    @abstractmethod
    def join(self, seconds: float) -> None:
        """Wait at most `seconds` for a thread of this ring, after `stop`."""

    def close(self) -> None:
        """Stop, close the connections, and release the memory, which goes with its last reader. Idempotent.

        Claim or lend no block afterwards.
        """
        self.stop()
        if self._links is not None:
            self._links.close()
        self._slots.clear()
        self._error = None  # its traceback leads here, and to slots: the cycle would keep them until gc runs

    def count_wait(self, index: int, seconds: float) -> None:
        """Count seconds that this rank has waited for another, by its index."""
        if seconds and index != self._me:
            rank = self._peers.ranks[index]
            with self._lock:
                self.waited[rank] = self.waited.get(rank, 0.0) + seconds

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

    def _wait(self, condition: threading.Condition, done: Callable[[], bool], blamed: Blamed) -> float:
        """Wait until `done`, for the ranks to blame no longer than the timeout. Return the seconds waited."""
        late, began = None, 0.0
        with contextlib.ExitStack() as waits:  # until this rank has been asked whom it waited for
            with self._lock:
                if self._running and not done():
                    began = time.monotonic()
                while late is None and self._running and not done():
                    ranks = blamed()
                    waits.close()
                    if not ranks:
                        wait_for_change(condition)
                        continue
                    waits.enter_context(self._peers.waiting_for(*ranks))
                    if not self._wait_for(ranks, condition, done, blamed):
                        late = ranks[0]
                running = self._running or done()
            if late is not None:
                raise self._peers.failure(late, TimeoutError(TIMED_OUT))
            if not running:
                self._raise_ended()
        return time.monotonic() - began if began else 0.0

    def _wait_for(
        self, ranks: Sequence[int], condition: threading.Condition, done: Callable[[], bool], blamed: Blamed
    ) -> bool:
        """Wait until `done`, or until other ranks are to blame. Return whether that was in time."""
        deadline = time.monotonic() + self._peers.timeout.total_seconds()
        while self._running and not done() and blamed() == ranks:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            wait_for_change(condition, left)
        return True

    def _raise_ended(self) -> NoReturn:
        if self._error is not None:
            raise self._error
        others = [rank for rank in self._peers.ranks if rank != self._peers.rank]
        rank, why = self._lost or (others[0], "the load has ended")
        raise self._peers.failure(rank, RuntimeError(why))
