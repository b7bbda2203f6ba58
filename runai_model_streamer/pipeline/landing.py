"""How bytes reach their destination: the protocol of a landing, and the one that lands in host memory."""

from collections.abc import Iterator
from typing import Protocol

import torch

from runai_model_streamer.pipeline.plan import Group, Step
from runai_model_streamer.pipeline.pool import Lease, SlabPool
from runai_model_streamer.pipeline.tensors import make_tensors


class Landing(Protocol):
    """Memory for groups, a place for each read, and tensors of what has landed.

    `lease` is called by one reader at a time, in plan order, before any read of the group; `buffer` and `landed` by
    the reader of a step; the other methods by the consumer.
    """

    def lease(self, group: Group) -> Lease:
        """Memory for the group; waits for it. Raises `Stopped` when the load ends meanwhile."""
        ...

    def buffer(self, lease: Lease, step: Step) -> memoryview:
        """Where the bytes of the step are to be read to."""
        ...

    def landed(self, lease: Lease, step: Step) -> None:
        """The step's bytes are in its buffer."""
        ...

    def ready(self, lease: Lease) -> None:
        """All steps of the group have landed; called once, by the reader of the last one."""
        ...

    def take(self, group: Group, lease: Lease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """The tensors of a complete group, in file order, in batches; its memory goes with them to the caller.

        No lease for a group without bytes.
        """
        ...

    def await_group(self, index: int) -> None:
        """The consumer waits for this group."""
        ...

    def forgo(self, index: int) -> None:
        """The caller has been given a tensor of group `index`, so it has let go of earlier ones, or keeps them."""
        ...

    def close(self) -> None:
        """Release what the caller does not use. No reader is running."""
        ...


class HostLanding:
    """Reads land in slabs, where the tensors then live: one copy, from the kernel or the socket."""

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool

    def lease(self, group: Group) -> Lease:
        """A slab."""
        lease = self._pool.lease(group)
        lease.hide_from_children(True)
        return lease

    def buffer(self, lease: Lease, step: Step) -> memoryview:
        """A piece of the slab."""
        return lease.memory[step.position : step.position + step.length]

    def landed(self, lease: Lease, step: Step) -> None:
        """Nothing is left to do."""

    def ready(self, lease: Lease) -> None:
        """Let children see the slab again."""
        lease.hide_from_children(False)

    def take(self, group: Group, lease: Lease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Tensors over the slab's bytes; the slab is recycled when all of them are gone."""
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
