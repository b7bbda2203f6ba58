"""Messages between the ranks of one load, and who is to blame when they end.

Two gloo groups. The data group carries the bytes, straight from and into the memory they live in. The control group
carries one message from each rank to each other at most: why it ended early. A receive for it is posted from the
beginning, so that it arrives even if its sender is gone a moment later.

When a message fails, its connection tells whether the other process has died: then the control connection is closed
too. If it is alive, it has ended early, and its own message says why and on whose account. A rank that ends early
sends that message first and closes its data connections then, so that all that wait for it are woken at once, and so
on along the chain. What neither dies nor answers runs into the timeout.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
import torch
import torch.distributed as dist

from runai_model_streamer.errors import DistributedError, InterruptedReadError

NOTICE_BYTES: Final = 2048
"""Of the message that says why a rank ended early."""

NOTICE_SECONDS: Final = 10.0
"""Most seconds to wait for that message, from a rank that has closed its connections."""

_LENGTH_TAG: Final = 1
_GATHER_TAG: Final = 2
_POISON_TAG: Final = 3
_FIRST_TAG: Final = 16
_MOST_TAGS: Final = 1 << 30


class Reason(NamedTuple):
    """Why a load ended early."""

    rank: int
    """Whose fault it is."""
    text: str
    """Goes on from "rank 3"."""


class Peers:
    """The other ranks of a load. Thread safe, but for `gather`.

    Args:
        ranks: those that share the load, this one among them, numbered as in the default process group.
        data: gloo group of these ranks, for nothing else.
        control: another.
        timeout: seconds that one message may take.
    """

    def __init__(
        self, ranks: Sequence[int], data: "dist.ProcessGroup", control: "dist.ProcessGroup", timeout: float
    ) -> None:
        self.ranks = tuple(ranks)
        self.rank = dist.get_rank()
        self.index = self.ranks.index(self.rank)
        """Of this rank among `ranks`."""
        self._others = [rank for rank in self.ranks if rank != self.rank]
        self._data = data
        self._control = control
        self._timeout = timedelta(seconds=timeout)
        self._settling = threading.RLock()
        self._settled = threading.Event()
        self._reason: Reason | None = None
        self._closed = False
        self._notices = {rank: torch.zeros(NOTICE_BYTES, dtype=torch.uint8, device="cpu") for rank in self._others}
        self._expected: dict[int, Any] = {
            rank: dist.irecv(notice, rank, group=control) for rank, notice in self._notices.items()
        }

    def send(self, buffer: memoryview, number: int) -> None:
        """Send the bytes, message `number`, to all others; return when they no longer need the buffer.

        Raises:
            DistributedError: a rank has died, ended early, or not taken them in time.
            InterruptedReadError: this rank has ended the load itself.
        """
        data, tag = torch.frombuffer(buffer, dtype=torch.uint8), _tag(number)
        self._wait_all([(rank, self._begin(dist.isend, data, rank, tag)) for rank in self._others])

    def receive(self, buffer: memoryview, index: int, number: int) -> None:
        """Fill the buffer with message `number` of the rank at `index`. Raises as `send` does."""
        rank = self.ranks[index]
        data = torch.frombuffer(buffer, dtype=torch.uint8)
        self._wait_all([(rank, self._begin(dist.irecv, data, rank, _tag(number)))])

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank passes here, in the order of `ranks`. Raises as `send` does."""
        mine = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
        lengths = [torch.tensor([len(data)], device="cpu") for _ in self.ranks]
        self._exchange(lengths[self.index], lengths, _LENGTH_TAG)
        sizes = [int(length) for length in lengths]
        found = [torch.empty(max(size, 1), dtype=torch.uint8, device="cpu") for size in sizes]
        found[self.index] = mine
        self._exchange(mine, found, _GATHER_TAG)
        return [bytes(each.numpy()[:size]) for each, size in zip(found, sizes, strict=True)]

    def _exchange(self, mine: torch.Tensor, others: Sequence[torch.Tensor], tag: int) -> None:
        work = []
        for rank, theirs in zip(self.ranks, others, strict=True):
            if rank != self.rank:
                work.append((rank, self._begin(dist.isend, mine, rank, tag)))
                work.append((rank, self._begin(dist.irecv, theirs, rank, tag)))
        self._wait_all(work)

    def _begin(self, operation: Callable[..., Any], data: torch.Tensor, rank: int, tag: int) -> Any:
        try:
            return operation(data, rank, group=self._data, tag=tag)
        except (RuntimeError, ValueError) as error:  # ValueError: the group has been destroyed
            raise self._failure(rank, error) from error

    def _wait_all(self, works: Sequence[tuple[int, Any]]) -> None:
        for rank, work in works:
            try:
                work.wait(self._timeout)
            except RuntimeError as error:
                raise self._failure(rank, error) from error

    def _failure(self, rank: int, error: Exception) -> DistributedError | InterruptedReadError:
        """The error for a message to or from `rank` that failed."""
        if "Application timeout" in str(error):
            # Another thread's message has run into the timeout, whereupon gloo closes all connections of the group.
            self._settled.wait(NOTICE_SECONDS)
        with self._settling:
            if self._reason is None:
                self.end(self._reason_of(rank, error))
            assert self._reason is not None
            if self._reason.rank == self.rank:
                return InterruptedReadError("this rank has ended the load")
            return self.error(self._reason)

    def _reason_of(self, rank: int, error: Exception) -> Reason:
        if "Timed out" in str(error):
            seconds = self._timeout.total_seconds()
            return Reason(
                rank,
                f"took no part for {seconds:g} s: it hangs, or its loop over the tensors stands still "
                "(RUNAI_STREAMER_DIST_TIMEOUT is the patience of the others)",
            )
        try:
            self._expected[rank].wait(timedelta(seconds=NOTICE_SECONDS))
        except RuntimeError as another:
            if "Timed out" in str(another):
                return Reason(rank, f"closed its connections without a word: {_first_line(error)}")
            return Reason(rank, f"died: its process has ended ({_first_line(error)})")
        said = orjson.loads(bytes(self._notices[rank].numpy()).rstrip(b"\0"))
        return Reason(int(said["rank"]), str(said["text"]))

    @staticmethod
    def error(reason: Reason) -> DistributedError:
        """As the caller sees it."""
        return DistributedError(f"rank {reason.rank} {reason.text}", (reason.rank,))

    def end(self, reason: Reason) -> None:
        """Tell all others why, and wake all that wait for this rank, here and there. The first reason counts."""
        with self._settling:
            if self._reason is not None or self._closed:
                return
            self._reason = reason
            self._tell(reason)
            self._wake()
            self._settled.set()

    def _tell(self, reason: Reason) -> None:
        text = reason.text
        while len(said := orjson.dumps({"rank": reason.rank, "text": text})) > NOTICE_BYTES:
            text = text[: len(text) * 3 // 4]
        notice = torch.frombuffer(bytearray(said.ljust(NOTICE_BYTES, b"\0")), dtype=torch.uint8)
        works: list[Any] = []
        for rank in self._others:
            with contextlib.suppress(RuntimeError, ValueError):
                works.append(dist.isend(notice, rank, group=self._control))
        for work in works:
            with contextlib.suppress(RuntimeError):  # who is gone needs no telling
                work.wait(timedelta(seconds=NOTICE_SECONDS))

    def _wake(self) -> None:
        """Close the data connections: gloo does so with all of a group when a receive runs into its timeout."""
        for rank in self._others:
            nothing = torch.zeros(1, dtype=torch.uint8, device="cpu")
            with contextlib.suppress(RuntimeError, ValueError):
                work: Any = dist.irecv(nothing, rank, group=self._data, tag=_POISON_TAG)
                work.wait(timedelta(milliseconds=1))

    def close(self) -> None:
        """Give the groups back. Nothing may be in flight, but for what `end` has woken. Idempotent."""
        with self._settling:
            if self._closed:
                return
            self._closed = True
            self._expected.clear()
            for group in (self._data, self._control):
                with contextlib.suppress(RuntimeError, ValueError, AssertionError):  # the caller destroyed them all
                    dist.destroy_process_group(group)


def _tag(number: int) -> int:
    # Used again only long after the message that had it before: in flight are as many as there are readers.
    return _FIRST_TAG + number % _MOST_TAGS


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
