"""How bytes reach their destination: the protocol of a landing, and the one that lands in host memory."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from runai_model_streamer.io.source import Origin, Source
from runai_model_streamer.pipeline.lifecycle import Lifecycle
from runai_model_streamer.pipeline.nvtx import nvtx_range
from runai_model_streamer.pipeline.plan import Group, Grouping, Step
from runai_model_streamer.pipeline.pool import SlabPool
from runai_model_streamer.pipeline.slabs import Lease
from runai_model_streamer.pipeline.tensors import make_tensors
from runai_model_streamer.pipeline.waiting import WaitClock


class Reading(NamedTuple):
    """What one read was like."""

    origin: Origin
    """Where the bytes came from."""
    seconds: float
    """How long the source took, waits for memory left aside."""
    began: float | None = None
    """When, by `time.perf_counter`; None for several reads with something else in between."""


class Leased(Protocol):
    """Memory that a landing has given to one group."""

    @property
    def group(self) -> Group:
        """Whose it is."""
        ...


LeaseT = TypeVar("LeaseT", bound=Leased)


class Landing(Protocol[LeaseT]):
    """Memory for groups, a place for each read, and tensors of what has landed.

    `lease` is called by one reader at a time, in plan order, before any read of the group; `read` by the reader of a
    step; `ready` by the reader of a group's last one; the other methods by the consumer.
    """

    @property
    def beside(self) -> str | None:
        """What `read` spends time on beside the source's own: a stage of `reader_tally.STAGES`. None: nothing."""
        ...

    @property
    def waits(self) -> WaitClock:
        """How long `lease` has waited for memory, or for the caller."""
        ...

    @property
    def peak(self) -> int:
        """Most bytes of host memory held at once, as they count against the limit. From any thread."""
        ...

    def lease(self, group: Group, hurry: bool) -> LeaseT:
        """Memory for the group; waits for it. Raises `Stopped` when the load ends meanwhile.

        In a hurry, storage has nothing to do while readers wait here.
        """
        ...

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes to where they belong, or to where the landing takes them on from."""
        ...

    def ready(self, lease: LeaseT) -> None:
        """All steps of the group have been read; called once, by the reader of the last one."""
        ...

    def take(self, group: Group, lease: LeaseT | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """The tensors of a complete group, in file order, in batches; its memory goes with them to the caller.

        No lease for a group without bytes. Each batch is made in the caller's thread, when it is asked for.
        """
        ...

    def await_group(self, index: int) -> None:
        """The consumer waits for this group."""
        ...

    def forgo(self, index: int) -> None:
        """The caller has been given a tensor of group `index`, so it has let go of earlier ones, or keeps them."""
        ...

    def close(self) -> None:
        """Release what the caller does not use. No reader is running, but for one that hangs in a read.

        Raises:
            StreamerError: something could not be released, or turned out to have failed. All the rest is released.
        """
        ...


class Destination(NamedTuple):
    """Where a load's tensors are to be, if that is not host memory, as they are in the files."""

    device: torch.device
    group_bytes: int
    """Aim for the size of a group."""
    landing: Callable[[Lifecycle], Landing[Any]]
    """Makes the landing, once, in the thread that starts the load; which closes it."""
    group_limit: int | None = None
    """Most bytes of the files in a group, unless one tensor is larger."""
    stages: int | None = None
    """Reads that it has room to stage at once, where it stages them; None for any number."""

    @property
    def grouping(self) -> Grouping:
        """How it wants its groups."""
        return Grouping(self.group_limit, self.group_bytes, self.stages)


def timed_read(source: Source, offset: int, buffer: memoryview) -> Reading:
    """Fill the buffer from the source; see `Source.read_into`."""
    with nvtx_range("read"):
        return timed_call(partial(source.read_into, offset, buffer))


def timed_call(read: Callable[[], Origin]) -> Reading:
    """Do the read."""
    started = time.perf_counter()
    origin = read()
    return Reading(origin, time.perf_counter() - started, started)


class HostLanding:
    """Reads land in slabs, where the tensors then live: one copy, from the kernel or the socket."""

    beside = None

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool
        self.waits = pool.waits

    @property
    def peak(self) -> int:
        """See `SlabPool.peak`."""
        return self._pool.peak

    def lease(self, group: Group, hurry: bool) -> Lease:
        """A slab."""
        with nvtx_range("wait for memory"):
            lease = self._pool.lease(group, hurry)
        lease.hide_from_children(True)
        return lease

    def read(self, lease: Lease, step: Step, source: Source) -> Reading:
        """Into the slab."""
        reading = timed_read(source, step.offset, self.buffer(lease, step))
        self.landed(lease, step)
        return reading

    def buffer(self, lease: Lease, step: Step) -> memoryview:
        """Where the bytes of the step are to be read to: a piece of the slab."""
        return lease.memory[step.position : step.position + step.length]

    def landed(self, lease: Lease, step: Step) -> None:
        """The step's bytes are in its buffer: nothing is left to do."""

    def ready(self, lease: Lease) -> None:
        """Let children see the slab again."""
        lease.hide_from_children(False)

    def take(self, group: Group, lease: Lease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Tensors over the slab's bytes; the slab comes back when all of them are gone."""
        if lease is None:
            return make_tensors(group, None)
        # From here on only the tensors, and the iterator that makes them, keep the slab.
        return make_tensors(group, self._pool.hand_over(lease))

    def await_group(self, index: int) -> None:
        """See `SlabPool.await_group`."""
        self._pool.await_group(index)

    def forgo(self, index: int) -> None:
        """See `SlabPool.forgo`."""
        self._pool.forgo(index)

    def close(self) -> None:
        """See `SlabPool.close`."""
        self._pool.close()
