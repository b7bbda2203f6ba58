"""How bytes reach their destination: the protocol of a landing, and the one that lands in host memory."""

from collections.abc import Iterator

import torch

from runai_model_streamer.io.source import Source
from runai_model_streamer.pipeline.landing.tensors import make_tensors
from runai_model_streamer.pipeline.memory.pool import SlabPool
from runai_model_streamer.pipeline.memory.slabs import Lease
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_read


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
