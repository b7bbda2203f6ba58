"""Issues a domain's broadcasts in their order, in a thread of its own; see the package."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.turns import Turns
from runai_model_streamer.distributed.ranks.peers import TIMED_OUT, Peers

PROMISE: Final = 4
"""The sender takes part in all broadcasts before this number."""
ALLOW: Final = 5
"""All ranks take part in all broadcasts before this number."""
ALL_RUN: Final = 6
"""All broadcasts have run at the sender."""

POLL_SECONDS: Final = 0.0002
"""Seconds between two looks at the broadcasts in flight. One of 16 MiB takes about as long."""

ABORT_SECONDS: Final = 5.0
"""Maximum seconds for aborted broadcasts to leave the device."""


class Owner(Protocol):
    """The ring, as the conductor sees it."""

    @property
    def running(self) -> bool:
        """Whether the load has not ended."""
        ...

    def memory_for(self, turn: int) -> memoryview | None:
        """Return this rank's bytes for a broadcast; None while they have not been read."""
        ...

    def has_run(self, turn: int) -> None:
        """Note that a broadcast has run on this rank."""
        ...

    def all_have_run(self, index: int) -> None:
        """Note that all broadcasts have run on a rank."""
        ...

    def send(self, other: int, kind: int, number: int) -> None:
        """Send a message to a rank."""
        ...

    def ended(self, error: BaseException | None) -> None:
        """End the load for this error. None: it has ended, or another rank is at fault."""
        ...


class Conductor:
    """The thread that uploads, promises, allows and issues. It alone uses the lane.

    Args:
        peers: the ranks of the load.
        domain: indices of the ranks that take part, in order.
        turns: the order; all use it under `lock` only.
        lengths: bytes of each broadcast.
        lane: the slots on the device; closed with this.
        lock: guards `turns`.
        owner: the ring; called without the lock.
    """

    def __init__(
        self,
        peers: Peers,
        domain: Sequence[int],
        turns: Turns,
        lengths: Sequence[int],
        lane: Lane,
        lock: threading.Lock,
        owner: Owner,
    ) -> None:
        self._peers, self._domain, self._turns, self._lengths = peers, domain, turns, lengths
        self._lane, self._lock, self._owner = lane, lock, owner
        self._others = [each for each in domain if each != peers.index]
        self._own = deque(turn for turn, root in enumerate(turns.roots) if root == peers.index)
        self._flying: deque[Any] = deque()
        self._news = threading.Condition(lock)
        self._heard = False
        self._thread = threading.Thread(target=self._run, name="runai-broadcasts", daemon=True)

    def start(self) -> None:
        """Begin. Once."""
        self._thread.start()

    def tell(self) -> None:
        """Wake the thread, with the lock: something has changed."""
        self._heard = True
        self._news.notify_all()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with contextlib.ExitStack() as waits:  # until this rank has been asked whom it waited for
                try:
                    self._conduct(waits)
                except BaseException as failed:
                    error = failed
                self._owner.ended(error)
        finally:
            del error
            self._land()

    def _conduct(self, waits: contextlib.ExitStack) -> None:
        since, blaming = time.monotonic(), False
        while self._owner.running and not self._turns.over:
            if self._go_on():
                waits.close()
                since, blaming = time.monotonic(), False
                continue
            with self._lock:
                ranks = [self._peers.ranks[each] for each in self._turns.waits_for()]
            if not blaming:
                blaming = True
                if ranks:
                    waits.enter_context(self._peers.waiting_for(*ranks))
            left = since + self._peers.timeout.total_seconds() - time.monotonic()
            if ranks and left <= 0:
                raise self._peers.failure(ranks[0], TimeoutError(TIMED_OUT))
            with self._lock:
                if self._owner.running and not self._heard:
                    self._news.wait(POLL_SECONDS if self._flying else left if ranks else None)

    def _go_on(self) -> bool:
        """Do what can be done now. Return whether that was anything, or another thread or rank has done something."""
        with self._lock:
            heard, self._heard = self._heard, False
        done = [self._upload(), self._promise(), self._issue(), self._look(), self._finish()]
        return heard or any(done)

    def _upload(self) -> bool:
        with self._lock:
            if not self._own or not self._turns.may_load(self._own[0]):
                return False
        turn = self._own[0]
        memory = self._owner.memory_for(turn)
        if memory is None:
            return False
        self._own.popleft()
        self._lane.upload(self._turns.slot(turn), memory)
        with self._lock:
            self._turns.loaded(turn)
        return True

    def _promise(self) -> bool:
        turns = self._turns
        with self._lock:
            more, promised = turns.promise(), turns.promised
            allows, allowed = turns.allow(), turns.allowed
        if more and turns.leader != self._peers.index:
            self._owner.send(turns.leader, PROMISE, promised)
        if allows:
            for other in self._others:
                self._owner.send(other, ALLOW, allowed)
        return more or allows

    def _issue(self) -> bool:
        turns = self._turns
        with self._lock:
            turn = turns.next_to_issue()
        if turn is None:
            return False
        root = self._domain.index(turns.roots[turn])
        self._flying.append(self._lane.broadcast(turns.slot(turn), self._lengths[turn], root))
        with self._lock:
            turns.issued += 1
        return True

    def _look(self) -> bool:
        """See whether the first broadcast in flight has run."""
        if not self._flying or not self._lane.has_run(self._flying[0]):
            return False
        self._flying.popleft()
        self._owner.has_run(self._turns.run)
        with self._lock:
            self._turns.run += 1
        return True

    def _finish(self) -> bool:
        """Tell the others, once, that all broadcasts have run here."""
        turns, me = self._turns, self._peers.index
        if turns.run < len(turns.roots) or me not in turns.not_run:
            return False
        for other in self._others:
            self._owner.send(other, ALL_RUN, 0)
        self._owner.all_have_run(me)
        return True

    def _land(self) -> None:
        """Let nothing that was queued touch the slots any more."""
        if self._flying:
            self._lane.abort()
            deadline = time.monotonic() + ABORT_SECONDS
            while not all(work.is_completed() for work in self._flying):
                if time.monotonic() > deadline:
                    self._lane.leak()
                    break
                time.sleep(POLL_SECONDS)
            self._flying.clear()
        self._lane.drain()

    def join(self, seconds: float) -> None:
        """Wait for the thread, after the load's end. If it hangs in the group, abort that."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(seconds)
            if self._thread.is_alive():
                threading.Thread(target=self._lane.abort, name="runai-abort", daemon=True).start()
                self._lane.drain()

    def close(self) -> None:
        """Release the lane, unless the thread hangs: then that keeps it. Idempotent."""
        if not self._thread.is_alive():
            self._lane.close()
