"""Casts on the host while bytes land: a reader casts each piece while it is in the CPU's cache.

A checkpoint in another dtype then needs no second copy, and its file's bytes never reach main memory. Groups without
tensors to cast land in place.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.source import Source
from runai_model_streamer.kernels.bits import ITEM_SIZES
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.landing.destination import HOST, Destination, LoadSpec
from runai_model_streamer.pipeline.landing.host import HostLanding, other_memory, with_last_reads
from runai_model_streamer.pipeline.landing.tensors import make_tensors
from runai_model_streamer.pipeline.memory.pool import SlabPool
from runai_model_streamer.pipeline.memory.scratch import ScratchPool
from runai_model_streamer.pipeline.memory.slabs import Bytes, Lease, OtherMemory
from runai_model_streamer.pipeline.plan.casts import (
    Casting,
    CastLayout,
    CastPlan,
    CastRun,
    as_cast,
    cast_layout,
    plan_cast,
    scratch_size,
)
from runai_model_streamer.pipeline.plan.groups import Group, Grouping, PlannedFile, Step, group_target
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_read


@dataclass(slots=True, eq=False)
class CastLease:
    """The memory that one group's cast tensors live in."""

    group: Group
    """As planned, before casts."""
    slab: Lease
    layout: CastLayout | None
    """None if nothing in the group is cast."""
    starts: list[int]
    """Start of each run of the layout."""
    cut: dict[int, "_Cut"] = field(default_factory=dict)
    """Elements cut by the end of a piece: position in the group's planned memory -> the bytes landed so far."""


class _Cut:
    """An element whose bytes have landed in part."""

    __slots__ = ("data", "missing")

    def __init__(self, size: int) -> None:
        self.data = np.empty(size, np.uint8)
        self.missing = size


class CastingLanding:
    """Casts floating-point tensors to one dtype on their way into slabs.

    It compiles its kernels when it is made.

    Args:
        pool: has the slabs that tensors live in. Its limit is the plan's `slab_limit`.
        plan: what to cast. Its `group_limit` was used to plan the groups.
        lifecycle: the load's.
        setup: times the import of numba, and compiling.

    Raises:
        MissingDependencyError: numba is not installed.
    """

    extra_stage = "cast"

    def __init__(self, pool: SlabPool, plan: CastPlan, lifecycle: Lifecycle, setup: SetupClock | None = None) -> None:
        self._kernels = _kernels(plan.casting, setup or SetupClock())
        self._pool = pool
        self.waits = pool.waits
        self._plain = HostLanding(pool)
        self._target = plan.casting.target
        self._scratch = ScratchPool(plan.scratch_bytes, plan.scratch_count, lifecycle)
        self._joining = threading.Lock()

    @property
    def peak(self) -> int:
        """Maximum bytes of slabs held at once. Scratch memory is not counted."""
        return self._pool.peak

    def reads_at_once(self, length: int) -> int:
        """Return more than there ever are: scratch memory is for pieces of reads."""
        return self._plain.reads_at_once(length)

    def lease(self, group: Group, storage_bound: bool) -> CastLease:
        """Lease a slab for the cast tensors."""
        layout = cast_layout(group, self._target)
        if layout is None:
            return CastLease(group, self._plain.lease(group, storage_bound), None, [])
        with nvtx_range("wait for memory"):
            slab = self._pool.lease(layout.output, storage_bound)
        return CastLease(group, slab, layout, [run.start for run in layout.runs])

    def read(self, lease: CastLease, step: Step, source: Source) -> Reading:
        """Read piece by piece into scratch memory, and cast each piece into the slab."""
        if lease.layout is None:
            return self._plain.read(lease.slab, step, source)
        with self._scratch.lend() as scratch:
            landed, seconds = 0, 0.0
            # Through the lease's memoryview, which tensors do not depend on: a reader that hangs may keep it.
            slab = np.frombuffer(lease.slab.memory, np.uint8)
            while True:
                size = min(step.length - landed, len(scratch))
                origin, taken, _ = timed_read(source, step.offset + landed, scratch[:size])
                self._place(lease, step.position + landed, np.frombuffer(scratch, np.uint8, size), slab)
                landed += size
                seconds += taken
                if landed == step.length:
                    return Reading(origin, seconds)

    def _place(self, lease: CastLease, position: int, data: Bytes, slab: Bytes) -> None:
        """Cast what has landed at `position` of the group's planned memory."""
        assert lease.layout is not None
        runs, end = lease.layout.runs, position + len(data)
        index = max(bisect_right(lease.starts, position) - 1, 0)
        with nvtx_range("cast"):
            while index < len(runs) and runs[index].start < end:
                run = runs[index]
                first, last = max(run.start, position), min(run.end, end)
                if first < last:
                    self._place_run(lease, run, first, data[first - position : last - position], slab)
                index += 1

    def _place_run(self, lease: CastLease, run: CastRun, first: int, data: Bytes, slab: Bytes) -> None:
        if run.source == run.target:
            place = run.place(first)
            np.copyto(slab[place : place + len(data)], data)
            return
        item, wide = ITEM_SIZES[run.source], ITEM_SIZES[run.target]
        head = min((run.start - first) % item, len(data))
        count = (len(data) - head) // item
        tail = head + count * item
        if head:
            self._join(lease, run, first, data[:head], slab)
        if count:
            place = run.place(first + head)
            self._kernels[run.source](data[head:tail], slab[place : place + count * wide])
        if tail < len(data):
            self._join(lease, run, first + tail, data[tail:], slab)

    def _join(self, lease: CastLease, run: CastRun, first: int, data: Bytes, slab: Bytes) -> None:
        """Keep the bytes of an element that is cut between pieces, and cast it when all of them have landed."""
        item = ITEM_SIZES[run.source]
        start = first - (first - run.start) % item
        with self._joining:
            cut = lease.cut.get(start)
            if cut is None:
                cut = lease.cut[start] = _Cut(item)
            cut.data[first - start : first - start + len(data)] = data
            cut.missing -= len(data)
            if cut.missing:
                return
            del lease.cut[start]
        place = run.place(start)
        self._kernels[run.source](cut.data, slab[place : place + ITEM_SIZES[run.target]])

    def ready(self, lease: CastLease) -> None:
        """Let forked children see a slab that was read into directly."""
        if lease.layout is None:
            self._plain.ready(lease.slab)

    def take(self, group: Group, lease: CastLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Make tensors over the slab's bytes. The slab is recycled when all of them are gone."""
        if lease is None:
            layout = cast_layout(group, self._target)
            return make_tensors(group if layout is None else layout.output, None)
        if lease.layout is None:
            return self._plain.take(group, lease.slab)
        return make_tensors(lease.layout.output, self._pool.hand_over(lease.slab))

    def await_group(self, index: int) -> None:
        """Let the pool know which group the caller waits for."""
        self._pool.await_group(index)

    def release(self, index: int) -> None:
        """Let the pool know that the caller has come to this group."""
        self._pool.release(index)

    def close(self) -> None:
        """Free scratch memory and the slabs that the caller does not use."""
        self._scratch.close()
        self._pool.close()


def cast_destination(spec: LoadSpec, casting: Casting) -> Destination:
    """Land in host memory, and cast on the way.

    Raises:
        RunaiStreamerMemoryLimitException: the limit is too low for a tensor and what it is cast from.
        PinnedUnavailableError: page-locked memory is required, and cannot be had.
    """
    becoming = [
        file._replace(tensors=[as_cast(tensor, casting.target) for tensor in file.tensors]) for file in spec.files
    ]
    limit = spec.limit.bytes_for(spec.paths, becoming, spec.assembled, scratch_size(spec.files))
    plan = plan_cast(spec.files, casting, limit, spec.concurrency)
    memory = other_memory(spec.config.pinned, plan.slab_limit)
    return cast_in_host_memory(with_last_reads(spec), plan, limit, memory, spec.setup)


def cast_in_host_memory(
    files: Sequence[PlannedFile],
    plan: CastPlan,
    limit: int | None = None,
    memory: OtherMemory | None = None,
    setup: SetupClock | None = None,
) -> Destination:
    """Land in host memory, and cast on the way.

    Args:
        files: what to read of each.
        plan: what to cast, and within which limits.
        limit: bytes that slabs and scratch memory may hold together; None for no limit.
        memory: other host memory than slabs, for the groups that it takes.
        setup: times the import of numba, and compiling.
    """

    def landing(lifecycle: Lifecycle, _: Sequence[Group]) -> CastingLanding:
        return CastingLanding(SlabPool(plan.slab_limit, lifecycle, memory), plan, lifecycle, setup)

    grouping = Grouping(plan.group_limit, group_target(plan.group_limit), plan.scratch_count)
    return Destination(HOST, files, grouping, landing, limit)


def _kernels(casting: Casting, setup: SetupClock) -> dict[str, Callable[[Bytes, Bytes], None]]:
    target, sources = casting.target, sorted(casting.sources)
    try:
        with setup.during("imports"):
            from runai_model_streamer.kernels import host
    except ImportError as error:
        raise MissingDependencyError(
            f"dtype=... needs numba to cast {', '.join(sources)} to {target} ({error})",
            remedy=install_command("cast"),
            sep=": ",
        ) from error
    with setup.during("compiling"):
        return {source: host.cast(source, target) for source in sources}
