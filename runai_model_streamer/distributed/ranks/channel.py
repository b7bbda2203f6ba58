"""Makes a gloo group of some ranks, without the ranks outside it, for messages between two of them."""

import hashlib
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class Channel:
    """A gloo group of our own, whatever the backend of the caller's groups. Messages are thread safe.

    `torch.distributed.new_group` would not do: either all ranks of the default group must call it, or its members must
    have made the same other groups before.

    Args:
        ranks: its members, by their numbers in the default process group; they include this rank.
        store: where they find each other; used for no other group.
        seconds: maximum wait for the others. Nothing ends this wait, not even Ctrl-C, so all should have come.

    Raises:
        RuntimeError: not all connected in time.
    """

    def __init__(self, ranks: Sequence[int], store: Any, seconds: float) -> None:
        from torch.distributed import distributed_c10d as c10d  # not every torch has it

        self._index = {rank: index for index, rank in enumerate(ranks)}
        own = self._index[dist.get_rank()]
        self._group: Any = c10d.ProcessGroupGloo(store, own, len(ranks), timedelta(seconds=seconds))

    def isend(self, data: torch.Tensor, rank: int, tag: int) -> Any:
        """Begin to send. Raise RuntimeError if the connection has closed."""
        return self._begin().send([data], self._index[rank], tag)

    def irecv(self, data: torch.Tensor, rank: int, tag: int) -> Any:
        """Begin to receive; see `isend`."""
        return self._begin().recv([data], self._index[rank], tag)

    def _begin(self) -> Any:
        group = self._group
        if group is None:
            raise RuntimeError("the group is closed")
        return group

    def close(self) -> None:
        """Release the group. Its connections close when its last message is released. Idempotent.

        gloo takes 20 ms for that, and the caller has all its tensors. So a thread does it. The interpreter waits for
        the thread before it ends.
        """
        held, self._group = [self._group], None
        if held[0] is not None:
            with suppress(RuntimeError):  # the system refuses threads: it goes with the list
                threading.Thread(target=held.clear, name="runai-closing").start()


def meeting(ranks: Sequence[int]) -> Any:
    """Return where these ranks find each other: torch's store, under a name that no other meeting of theirs has.

    All of them must make equally many meetings.

    Raises:
        TypeError: the default process group has no store.
    """
    from torch.distributed import distributed_c10d as c10d

    name = f"runai_model_streamer/{_meetings.next_name(ranks)}"
    return c10d.PrefixStore(name, c10d._get_default_store())  # noqa: SLF001


def part_of(store: Any, name: str) -> Any:
    """Return a store in which keys have this name in front."""
    from torch.distributed import distributed_c10d as c10d

    return c10d.PrefixStore(name, store)


class _Meetings:
    """Counts how often this process has met the same ranks, so that each meeting has its own name.

    It starts again with a new default process group: a restarted process has met no rank yet.
    """

    def __init__(self) -> None:
        self._world: weakref.ref[object] | None = None
        self._counts: Counter[tuple[int, ...]] = Counter()

    def next_name(self, ranks: Sequence[int]) -> str:
        """Return the name of the next meeting of these ranks."""
        world = dist.group.WORLD
        if self._world is None or self._world() is not world:
            self._world = weakref.ref(world) if world is not None else None
            self._counts.clear()
        members = tuple(ranks)
        self._counts[members] += 1
        digest = hashlib.sha256(",".join(map(str, members)).encode()).hexdigest()[:16]
        return f"{digest}/{self._counts[members]}"


_meetings = _Meetings()
