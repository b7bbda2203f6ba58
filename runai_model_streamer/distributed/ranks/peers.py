"""Messages between the ranks of one load, and who is to blame when they end.

Two gloo groups. The data group carries what ranks agree on, and bytes between nodes. The control group
carries one message from each rank to each other at most: why it ended early. A receive for it is posted from the
beginning, so that it arrives even if its sender is gone a moment later.

All that a rank ever waits for is the arrival of an empty message: one follows each message that has bytes, and one
says that they have arrived. When a connection closes, gloo wakes a receive that has not begun, but neither one whose
bytes have begun to arrive nor a send whose bytes have begun to go. An empty message arrives at once or not at all.

When a message fails, its connection tells whether the other process has died: then the control connection is closed
too. If it is alive, it has ended early, and its own message says why and on whose account. A rank that ends early
sends that message first and closes its data connections then, so that all that wait for it are woken at once, and so
on along the chain. A rank that neither dies nor answers runs into the timeout of others.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist

from runai_model_streamer.distributed.ranks.channel import Channel
from runai_model_streamer.distributed.ranks.notices import Listener, Reason, TimedOut, nothing
from runai_model_streamer.errors import DistributedError
from runai_model_streamer.lifecycle import Stopped

NOTICE_SECONDS: Final = 10.0
"""Most seconds to wait for the message that says why a rank has closed its connections."""

ANSWER_SECONDS: Final = 3.0
"""Seconds for a rank that was waited for to say that it has waited itself."""

_TAGS: Final = 3
"""Of a message: its bytes, their end, the receiver's ack."""

_POISON_TAG: Final = 0
_LENGTH_TAG: Final = 1
_GATHER_TAG: Final = _LENGTH_TAG + _TAGS
_FIRST_TAG: Final = _GATHER_TAG + _TAGS

TIMED_OUT: Final = "Timed out"
"""What the text of an error has, gloo's too, when a wait has timed out."""

_MAX_MESSAGES: Final = 1 << 29
_KEPT: Final = 1024


class Peers:
    """The other ranks of a load. Thread safe, but for `gather`.

    Args:
        ranks: those that share the load, this one among them, numbered as in the default process group.
        data: channel of these ranks, for nothing else.
        control: another.
        timeout: seconds that one message may take.
    """

    def __init__(self, ranks: Sequence[int], data: Channel, control: Channel, timeout: float) -> None:
        self.ranks = tuple(ranks)
        self.rank = dist.get_rank()
        self.index = self.ranks.index(self.rank)
        """Of this rank among `ranks`."""
        self._others = [rank for rank in self.ranks if rank != self.rank]
        self._data = data
        self._control = control
        self.timeout = timedelta(seconds=timeout)
        """For one message, or another wait for a rank."""
        self._waiting: dict[object, tuple[float, int]] = {}
        self._gate = threading.Condition()
        self._beginning = 0
        self._settling = threading.RLock()
        self._settled = threading.Event()
        self._reason: Reason | None = None
        self._ours = False
        self._ended = False
        self._closed = False
        # Nobody waits for them; kept until they have surely gone.
        self._acks: deque[Any] = deque(maxlen=_KEPT)
        self._listeners = {rank: Listener(rank, control) for rank in self._others}
        self.on_end: Callable[[], object] = _nothing
        """Called when the load has ended here, after the others have been told: to wake what waits elsewhere."""

    def send(self, buffer: memoryview, number: int, ranks: Sequence[int]) -> None:
        """Send the bytes, message `number`, to other ranks; return when they no longer need the buffer.

        Raises:
            DistributedError: a rank has died, ended early, or not taken them in time.
            Stopped: this rank has ended the load itself.
        """
        self._exchange(_tag(number), [], [(rank, torch.frombuffer(buffer, dtype=torch.uint8)) for rank in ranks])

    def receive(self, buffer: memoryview, rank: int, number: int) -> None:
        """Fill the buffer with message `number` of another rank. Raises as `send` does."""
        self._exchange(_tag(number), [(rank, torch.frombuffer(buffer, dtype=torch.uint8))], [])

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank passes here, in the order of `ranks`. Raises as `send` does."""
        mine = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
        length = torch.tensor([len(data)], device="cpu")
        lengths = {rank: torch.zeros_like(length) for rank in self._others}
        self._exchange(_LENGTH_TAG, list(lengths.items()), [(rank, length) for rank in self._others])
        found = {
            rank: torch.empty(max(int(length), 1), dtype=torch.uint8, device="cpu") for rank, length in lengths.items()
        }
        self._exchange(_GATHER_TAG, list(found.items()), [(rank, mine) for rank in self._others])
        return [data if rank == self.rank else bytes(found[rank].numpy()[: int(lengths[rank])]) for rank in self.ranks]

    def _exchange(
        self, tag: int, wanted: Sequence[tuple[int, torch.Tensor]], given: Sequence[tuple[int, torch.Tensor]]
    ) -> None:
        """Receive and send the bytes of one message; return when they are here, and there."""
        receive, send = partial(self._begin, self._data.irecv), partial(self._begin, self._data.isend)
        coming = [(rank, receive(data, rank, tag), receive(nothing(), rank, tag + 1)) for rank, data in wanted]
        taken = [(rank, receive(nothing(), rank, tag + 2)) for rank, _ in given]
        # Kept until the bytes are there: gloo forgets what nobody holds.
        going = [(send(data, rank, tag), send(nothing(), rank, tag + 1)) for rank, data in given]
        for rank, _, end in coming:
            self._wait(rank, end)
            self._acks.append(send(nothing(), rank, tag + 2))
        for rank, ack in taken:
            self._wait(rank, ack)
        del going

    def _begin(self, operation: Callable[..., Any], data: torch.Tensor, rank: int, tag: int) -> Any:
        with self._gate:
            ended = self._ended
            self._beginning += not ended
        if ended:
            raise self.failure(rank, RuntimeError("the load has ended"))
        try:
            return operation(data, rank, tag)
        except RuntimeError as error:
            failed = error
        finally:
            with self._gate:
                self._beginning -= 1
                self._gate.notify_all()
        raise self.failure(rank, failed) from failed

    @contextlib.contextmanager
    def waiting_for(self, rank: int) -> Iterator[None]:
        """Let it be known that this rank waits for that one, for as long as the context lasts."""
        key = object()
        self._waiting[key] = (time.monotonic(), rank)
        try:
            yield
        finally:
            del self._waiting[key]

    def _wait(self, rank: int, work: Any) -> None:
        with self.waiting_for(rank):
            try:
                work.wait(self.timeout)
            except RuntimeError as error:
                raise self.failure(rank, error) from error

    def failure(self, rank: int, error: Exception) -> DistributedError | Stopped:
        """The error for a message to or from `rank` that failed, or did not come in time (`TIMED_OUT`)."""
        if "Application timeout" in str(error):
            # Another thread's message has run into the timeout, whereupon gloo closes all connections of the group.
            self._settled.wait(2 * NOTICE_SECONDS)
        with self._settling:
            if self._reason is None:
                self._settle(rank, error)
            assert self._reason is not None
            if self._ours:
                return Stopped()  # the error that counts is the one that this rank has ended the load for
            return DistributedError(f"rank {self._reason.rank} {self._reason.text}", (self._reason.rank,))

    def _settle(self, rank: int, error: Exception) -> None:
        """Find out whose fault it is that a message to or from `rank` failed, and end the load."""
        if TIMED_OUT not in str(error):
            reason = self._said_by(rank, NOTICE_SECONDS)
            if reason is None:
                reason = Reason(rank, f"closed its connections without a word: {error}")
            if isinstance(reason, Reason):
                self._end(reason)
                return
        # A wait has timed out, here or there. A rank that is waited for may wait for another: each says for whom it
        # has waited, and a rank that says nothing then hangs.
        waited = self._long_waits()
        if not waited:
            self._end(self._absent(self._blamed_by(rank)))
            return
        self._stop(TimedOut(waited))
        self._reason = self._found_out(waited)
        self._settled.set()

    def _found_out(self, waited: Sequence[int]) -> Reason:
        """Whose fault the longest waits are: the first that is at fault itself, or that says nothing."""
        deadline = time.monotonic() + ANSWER_SECONDS
        asked = [rank for rank in waited if rank != self.rank]
        silent = []
        for rank in asked:  # it grows
            answer = self._said_by(rank, max(deadline - time.monotonic(), 0))
            if isinstance(answer, Reason):
                return answer
            if answer is None:
                silent.append(rank)
            else:
                asked.extend(each for each in answer.waited if each in self._listeners and each not in asked)
        return self._absent((silent or asked)[0])

    def _said_by(self, rank: int, seconds: float) -> Reason | TimedOut | None:
        listener = self._listeners[rank]
        listener.heard(seconds)
        return Reason(rank, "died: its process has ended") if listener.dead else listener.said

    def _blamed_by(self, rank: int) -> int:
        """The rank that `rank` has waited for: perhaps this one."""
        said = self._listeners[rank].said
        waited = said.waited if isinstance(said, TimedOut) else ()
        return self.rank if self.rank in waited else (*waited, rank)[0]

    def _absent(self, rank: int) -> Reason:
        return Reason(
            rank,
            f"took no part for {self.timeout.total_seconds():g} s: it hangs, or its loop over the tensors stands "
            "still (RUNAI_STREAMER_DIST_TIMEOUT says how long others wait)",
        )

    def _long_waits(self) -> tuple[int, ...]:
        """The ranks that this one has waited for during half its patience, the longest wait first."""
        since = time.monotonic() - self.timeout.total_seconds() / 2
        return tuple(dict.fromkeys(rank for began, rank in sorted(self._waiting.values()) if began < since))

    def end(self, reason: Reason) -> None:
        """Tell all others why, and wake all that wait for this rank, here and there. The first reason counts."""
        with self._settling:
            if self._reason is None and not self._closed:
                self._ours = True
                self._end(reason)

    def _end(self, reason: Reason) -> None:
        self._reason = reason
        self._stop(reason)
        self._settled.set()

    def _stop(self, notice: Reason | TimedOut) -> None:
        """Begin no more messages, tell all others, and end those that are in flight."""
        with self._gate:
            self._ended = True
            # gloo may forget a message that begins while its connection closes.
            self._gate.wait_for(lambda: not self._beginning, NOTICE_SECONDS)
        for listener in self._listeners.values():
            listener.tell(notice)
        for listener in self._listeners.values():
            listener.wait_until_told(NOTICE_SECONDS)
        self._wake(self._data)
        self.on_end()

    def _wake(self, channel: Channel) -> None:
        """Close all connections of a channel, as gloo does when a receive runs into its timeout."""
        for rank in self._others:
            with contextlib.suppress(RuntimeError):
                channel.irecv(nothing(), rank, _POISON_TAG).wait(timedelta(milliseconds=1))

    def close(self) -> None:
        """Give the groups back. Nothing may be in flight, but for what `end` has woken. Idempotent."""
        with self._settling:
            if self._closed:
                return
            self._closed = True
            if self._reason is None:
                with contextlib.suppress(RuntimeError):
                    for work in self._acks:
                        work.wait(timedelta(seconds=1))
            else:
                self._wake(self._control)
            self._acks.clear()
            self.on_end = _nothing
            for listener in self._listeners.values():
                listener.close()
            self._data.close()
            self._control.close()


def _nothing() -> None:
    """Nobody else waits."""


def _tag(number: int) -> int:
    # Used again only long after the message that had it before: in flight are as many as there are readers.
    return _FIRST_TAG + _TAGS * (number % _MAX_MESSAGES)
