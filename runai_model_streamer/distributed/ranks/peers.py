"""Carries messages between the ranks of one load, and finds the rank at fault when they fail.

There are two gloo groups. The data group carries what ranks agree on, and bytes between nodes. The control group
carries at most one message from each rank to each other: why it ended early. The receive for it is posted at the start,
so that the message arrives even if its sender ends a moment later.

A rank only ever waits for an empty message. One follows each message with bytes, and one acknowledges the bytes. When a
connection closes, gloo wakes a receive that has not begun. It does not wake a receive or a send whose bytes have begun
to move. An empty message arrives at once or not at all.

If a message fails, the control connection tells whether the other process has died: then it is closed too. If the
process is alive, it has ended early, and its own message says why and which rank is at fault. A rank that ends early
first sends that message, then closes its data connections. That wakes all ranks that wait for it, and so on along the
chain. A rank that neither dies nor answers makes the others time out.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist

from runai_model_streamer.distributed.ranks.channel import Channel
from runai_model_streamer.distributed.ranks.messages import (
    FIRST_TAG,
    POISON_TAG,
    REST_TAG,
    cut,
    joined,
    length_of_rest,
    over,
    tag_of,
)
from runai_model_streamer.distributed.ranks.notices import Listener, Reason, TimedOut, nothing
from runai_model_streamer.distributed.ranks.waits import Waits
from runai_model_streamer.errors import DistributedError
from runai_model_streamer.lifecycle import Stopped
from runai_model_streamer.threads.apart import apart

NOTICE_SECONDS: Final = 10.0
"""Maximum seconds to wait for the message that says why a rank has closed its connections."""

ANSWER_SECONDS: Final = 3.0
"""Seconds for a rank that others waited for to say that it was waiting itself."""

TIMED_OUT: Final = "Timed out"
"""The text in an error, gloo's too, for a wait that has timed out."""

_KEPT: Final = 1024


class Peers:
    """The other ranks of a load. Thread safe, except `gather`.

    Args:
        ranks: the ranks that share the load, by their numbers in the default process group; they include this rank.
        data: a channel of these ranks, used for nothing else.
        control: another such channel.
        timeout: maximum seconds for one message.
    """

    def __init__(self, ranks: Sequence[int], data: Channel, control: Channel, timeout: float) -> None:
        self.ranks = tuple(ranks)
        self.rank = dist.get_rank()
        self.index = self.ranks.index(self.rank)
        """This rank's index in `ranks`."""
        self._others = [rank for rank in self.ranks if rank != self.rank]
        self._data = data
        self._control = control
        self.timeout = timedelta(seconds=timeout)
        """Maximum time for one message, or for another wait for a rank."""
        self._waits = Waits()
        self.waiting_for = self._waits.of
        """Notes that this rank waits for another, or for any of several, while the context is open."""
        self._gate = threading.Condition()
        self._beginning = 0
        self._settling = threading.RLock()
        self._settled = threading.Event()
        self._reason: Reason | None = None
        self._ours = False
        self._ended = False
        self._closed = False
        # Kept until they have surely been sent: gloo drops a message without a reference. Nothing waits for them.
        self._acks: deque[Any] = deque(maxlen=_KEPT)
        self._listeners = {rank: Listener(rank, control) for rank in self._others}
        self.on_end: Callable[[], object] = _nothing
        """Called when the load has ended here and the others know: wakes waits outside this object."""

    def send(self, buffer: memoryview, number: int, ranks: Sequence[int]) -> None:
        """Send the bytes as message `number` to other ranks. Return when the buffer is free again.

        Raises:
            DistributedError: a rank has died, ended early, or not received them in time.
            Stopped: this rank has ended the load itself.
        """
        self._exchange(tag_of(number), [], [(rank, over(buffer)) for rank in ranks])

    def receive(self, buffer: memoryview, rank: int, number: int) -> None:
        """Fill the buffer with another rank's message `number`. Raises as `send` does."""
        self._exchange(tag_of(number), [(rank, over(buffer))], [])

    def gather(self, data: bytes) -> list[bytes]:
        """Exchange bytes with all ranks. Return each rank's, in the order of `ranks`. Ctrl-C ends the load.

        Raises as `send` does.
        """
        # Ctrl-C closes the connections, which wakes gloo.
        stop = partial(self.end, Reason(self.rank, "failed: KeyboardInterrupt"))
        return apart("exchange messages", partial(self._gather, data), stop)

    def _gather(self, data: bytes) -> list[bytes]:
        first, rest = cut(data)
        firsts = self._swap(FIRST_TAG, dict.fromkeys(self._others, len(first)), first)
        rests = self._swap(REST_TAG, {rank: length_of_rest(theirs) for rank, theirs in firsts.items()}, rest)
        return [data if rank == self.rank else joined(firsts[rank], rests.get(rank, b"")) for rank in self.ranks]

    def _swap(self, tag: int, lengths: Mapping[int, int], data: bytes) -> dict[int, bytes]:
        """Send the bytes to all others, and receive so many of each. Nothing is sent for no bytes."""
        found = {rank: bytearray(length) for rank, length in lengths.items() if length}
        mine = over(bytearray(data or b"\0"))
        wanted = [(rank, over(theirs)) for rank, theirs in found.items()]
        self._exchange(tag, wanted, [(rank, mine) for rank in self._others if data])
        return {rank: bytes(theirs) for rank, theirs in found.items()}

    def _exchange(
        self, tag: int, wanted: Sequence[tuple[int, torch.Tensor]], given: Sequence[tuple[int, torch.Tensor]]
    ) -> None:
        """Receive and send the bytes of one message. Return when both have arrived."""
        receive, send = partial(self._begin, self._data.irecv), partial(self._begin, self._data.isend)
        coming = [(rank, receive(data, rank, tag), receive(nothing(), rank, tag + 1)) for rank, data in wanted]
        taken = [(rank, receive(nothing(), rank, tag + 2)) for rank, _ in given]
        # Kept until the bytes have arrived: gloo drops a message without a reference.
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

    def _wait(self, rank: int, work: Any) -> None:
        with self.waiting_for(rank):
            try:
                work.wait(self.timeout)
            except RuntimeError as error:
                raise self.failure(rank, error) from error

    def failure(self, rank: int, error: Exception) -> DistributedError | Stopped:
        """Make the error for a message to or from `rank` that failed, or did not arrive in time (`TIMED_OUT`)."""
        if "Application timeout" in str(error):
            # Another thread's message has timed out. gloo then closes all connections of the group.
            self._settled.wait(2 * NOTICE_SECONDS)
        with self._settling:
            if self._reason is None:
                self._settle(rank, error)
            assert self._reason is not None
            if self._ours:
                return Stopped()  # this rank ended the load: its own error counts
            return DistributedError(f"rank {self._reason.rank} {self._reason.text}", (self._reason.rank,))

    def _settle(self, rank: int, error: Exception) -> None:
        """Find the rank at fault for a failed message to or from `rank`, and end the load."""
        if TIMED_OUT not in str(error):
            reason = self._said_by(rank, NOTICE_SECONDS)
            if reason is None:
                reason = Reason(rank, f"closed its connections without a word: {error}")
            if isinstance(reason, Reason):
                self._end(reason)
                return
        # A wait has timed out, here or there. The rank waited for may itself wait for another. Each rank says which
        # ranks it waited for, and a rank that says nothing hangs.
        late = self._waits.longer_than(self.timeout.total_seconds() / 2)
        if not late.waited or self._accused(late.waited):
            self._end(self._absent(self.rank if late.waited else self._blamed_by(rank)))
            return
        self._stop(late)
        self._reason = self._found_out(late.waited)
        self._settled.set()

    def _accused(self, waited: Sequence[int]) -> bool:
        """Return whether a rank that this one waits for has said before that it waits for this one, or all have.

        A process that was stopped finds its own waits long when it goes on, but the others timed out first.
        """
        deadline = time.monotonic() + 0.25  # a listener's thread takes what has arrived
        answers = [self._said_by(rank, max(deadline - time.monotonic(), 0)) for rank in waited if rank != self.rank]
        blaming = [said for said in answers if isinstance(said, TimedOut) and self.rank in said.waited]
        return len(blaming) == len(answers) or any(self.rank in said.accused for said in blaming)

    def _found_out(self, waited: Sequence[int]) -> Reason:
        """Return the rank that the longest waits end at: the first that is at fault itself, or that says nothing."""
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
        """Return the rank that `rank` has waited for, which may be this one."""
        said = self._listeners[rank].said
        waited = said.waited if isinstance(said, TimedOut) else ()
        return self.rank if self.rank in waited else (*waited, rank)[0]

    def _absent(self, rank: int) -> Reason:
        return Reason(
            rank,
            f"took no part for {self.timeout.total_seconds():g} s: it hangs, or its loop over the tensors has paused "
            "(RUNAI_STREAMER_DIST_TIMEOUT says how long others wait)",
        )

    def end(self, reason: Reason) -> None:
        """End the load: send all others the reason, and wake all waits, here and there. The first reason counts."""
        with self._settling:
            if self._reason is None and not self._closed:
                self._ours = True
                self._end(reason)

    def _end(self, reason: Reason) -> None:
        self._reason = reason
        self._stop(reason)
        self._settled.set()

    def _stop(self, notice: Reason | TimedOut) -> None:
        """Begin no more messages, tell all others, and end the messages in flight."""
        with self._gate:
            self._ended = True
            # gloo may lose a message that begins while its connection closes.
            self._gate.wait_for(lambda: not self._beginning, NOTICE_SECONDS)
        for listener in self._listeners.values():
            listener.tell(notice)
        for listener in self._listeners.values():
            listener.wait_until_told(NOTICE_SECONDS)
        self._wake(self._data)
        self.on_end()

    def _wake(self, channel: Channel) -> None:
        """Close all connections of a channel: gloo does that when a receive times out."""
        for rank in self._others:
            with contextlib.suppress(RuntimeError):
                channel.irecv(nothing(), rank, POISON_TAG).wait(timedelta(milliseconds=1))

    def close(self) -> None:
        """Release the groups. No message may be in flight, except those that `end` has woken. Idempotent."""
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
    """Wake nothing: no other wait exists."""
