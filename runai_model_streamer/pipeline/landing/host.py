"""Lands reads in host memory, where the tensors then live."""

import sys
from collections.abc import Iterator, Sequence
from typing import Final

import torch

from runai_model_streamer.config import PinnedMode
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.landing.destination import HOST, Destination, LoadSpec
from runai_model_streamer.pipeline.landing.tensors import make_tensors
from runai_model_streamer.pipeline.memory.pool import SlabPool
from runai_model_streamer.pipeline.memory.slabs import Lease, OtherMemory
from runai_model_streamer.pipeline.plan.groups import (
    LARGE_GROUP_BYTES,
    LARGEST_BYTES,
    REST_BYTES,
    Group,
    Grouping,
    PlannedFile,
    Step,
    plan_groups,
    steps_of,
)
from runai_model_streamer.pipeline.tally.nvtx import in_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_read

ARRAY_STREAMS: Final = 32
"""Reads that an array of two disks is first asked for at once (`Source.streams`)."""


class HostLanding:
    """Lands reads in slabs, where the tensors then live: one copy, from the kernel or the socket."""

    extra_stage = None

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool
        self._lease = in_range("wait for memory", pool.lease)
        self.waits = pool.waits

    @property
    def peak(self) -> int:
        """Maximum bytes held at once."""
        return self._pool.peak

    def reads_at_once(self, length: int) -> int:  # noqa: ARG002 - they land in their places
        """Return more than there ever are."""
        return sys.maxsize

    def lease(self, group: Group, storage_bound: bool) -> Lease:
        """Lease a slab."""
        lease = self._lease(group, storage_bound)
        lease.hide_from_children(True)
        return lease

    def read(self, lease: Lease, step: Step, source: Source) -> Reading:
        """Read into the slab."""
        return timed_read(source, step.offset, lease.memory[step.position : step.position + step.length])

    def ready(self, lease: Lease) -> None:
        """Let forked children see the slab again."""
        lease.hide_from_children(False)

    def take(self, group: Group, lease: Lease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Make tensors over the slab's bytes. The slab comes back when all of them are gone."""
        if lease is None:
            return make_tensors(group, None)
        # From here on only the tensors, and the iterator that makes them, keep the slab.
        return make_tensors(group, self._pool.hand_over(lease))

    def await_group(self, index: int) -> None:
        """Let the pool know which group the caller waits for."""
        self._pool.await_group(index)

    def release(self, index: int) -> None:
        """Let the pool know that the caller has come to this group."""
        self._pool.release(index)

    def close(self) -> None:
        """Free the slabs that the caller does not use."""
        self._pool.close()


def host_destination(spec: LoadSpec) -> Destination:
    """Land in host memory, as the bytes are in the files.

    Raises:
        RunaiStreamerMemoryLimitException: a tensor is larger than the limit.
        PinnedUnavailableError: page-locked memory is required, and cannot be had.
    """
    limit = spec.limit.bytes_for(spec.paths, spec.files, spec.assembled)
    files = with_last_reads(spec)
    # Without a chunk size from the user, reads may have any size. But within a memory limit large reads would be
    # slower: a reader that has finished its part of a group often waits for memory until another has finished, too.
    if limit is None and spec.config.chunk_bytesize is None and not spec.waits_for_ranks:
        files = list(map(_larger, files, spec.sources))
    return in_host_memory(files, limit, other_memory(spec.config.pinned, limit))


def _larger(file: PlannedFile, source: Source) -> PlannedFile:
    """Let a file's reads become larger, and its groups on an array of disks, unless the file is cached."""
    if file.kind is not SourceKind.FILE:
        return file
    large = file._replace(large=LARGEST_BYTES)
    if source.streams is None or source.streams < ARRAY_STREAMS:
        return large
    first = next((step for group in plan_groups([file]) for step in steps_of(group, [file])), None)
    cold = first is not None and source.origin(first.offset, first.length).waits_for_storage
    return large._replace(group=LARGE_GROUP_BYTES) if cold else large


def in_host_memory(files: Sequence[PlannedFile], limit: int | None, memory: OtherMemory | None = None) -> Destination:
    """Land in host memory.

    Args:
        files: what to read of each.
        limit: maximum bytes held, at least the largest tensor; None for no limit.
        memory: other host memory than slabs, for the groups that it takes.
    """

    def landing(lifecycle: Lifecycle, _: Sequence[Group]) -> HostLanding:
        return HostLanding(SlabPool(limit, lifecycle, memory))

    return Destination(HOST, files, Grouping(limit), landing, limit)


def with_last_reads(spec: LoadSpec) -> list[PlannedFile]:
    """Let the last read of a part be a little longer, unless ranks share the reads, which then must be even."""
    return [file if spec.waits_for_ranks else file._replace(rest=REST_BYTES) for file in spec.files]


def other_memory(pinned: PinnedMode, limit: int | None) -> OtherMemory | None:
    """Return page-locked memory if it is wanted; None for slabs only.

    Raises:
        PinnedUnavailableError: it is required, and not available.
    """
    if pinned is PinnedMode.NEVER or (pinned is PinnedMode.AUTO and not torch.cuda.is_initialized()):
        return None
    from runai_model_streamer.pipeline.memory.pinned import page_locking

    return page_locking(pinned, limit)
