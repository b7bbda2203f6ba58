"""Lands reads on a GPU: reader threads fill pinned slots, and a copy stream copies them to the device.

Readers fill slots while earlier slots are copied. An event after each slot's copies says when it may be filled again.
An event for each group says when its tensors are complete. Only `close`, and a reader that finds all slots in use, wait
on the host for a copy.

**Memory.** Each tensor has separate memory from torch's caching allocator, allocated for a whole group at once. One
piece for the group would be worse. A caller who keeps a small norm would keep the large weights of its group alive,
too. Tensors cut from one piece share a storage, so `torch.save` of one writes all. Handed over by DLPack they have a
storage that the allocator does not know, and `Tensor.record_stream` silently does nothing. An allocation costs about as
much as cutting and handing over (3 microseconds). Its start is aligned for every dtype and vectorised kernel, because
the bytes of a read are copied tensor by tensor.

**Why no memory has two users at once.** The allocator hands out memory in the order of one stream, S: the caller's
current stream at `stream_files`. C is the copy stream. The allocator reuses memory as soon as it is freed, while
kernels queued on S may still use the tensor that was there before.

1. *Copies run after earlier users.* After each allocation an event is recorded on S, and C waits for it.
2. *The caller's work runs after the copies.* The group's event is recorded on C after its last copy. Before a tensor is
   yielded, the stream that is then current in the caller's thread waits for this event.
3. *Later users run after the caller's work and the copies.* A yielded tensor's memory is freed in the order of S. If
   another stream was current, the memory is recorded on that one, and is freed in its order, too. Both come after 2.
   Memory that was not yielded belongs to this landing alone, not to an iterator or lease that may be dropped. Only
   `close` frees it, after it has synchronised C.
4. *A slot is filled after its copy.* See `slots`. GPUDirect, which knows no streams, reads into slots, too (`direct`).
5. *Scratch memory outlives the casts.* Tensors to cast land in scratch memory, one piece for a group, allocated with
   the group's tensors (so 1 holds for it). C casts from there after all copies of the group, before it records the
   group's event (2). The lease drops the scratch memory with the group's first tensor, after the wait
   for that event. So 3 holds for it, as for a tensor that the caller drops at once.

Memory is not recorded on C. By 2 and 3, C's work is done wherever memory is freed. Recorded on C, memory that the
caller drops would stay unavailable until C had done all the work queued by then, which is the read-ahead.

The memory limit bounds the slots. `Ahead` bounds the tensors on the device that the caller has not taken, since an
engine's own parameters fill the card. Groups are leased in plan order, so the group that the caller waits for always
comes first. That bounds scratch memory, too (a tensor above the group size makes a larger group).
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import torch

from runai_model_streamer.checkpoint.gc_pause import gc_paused
from runai_model_streamer.errors import CudaError, StateError
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.cuda.ahead import Ahead
from runai_model_streamer.pipeline.cuda.arena import Arenas
from runai_model_streamer.pipeline.cuda.copy_stream import CopyStream
from runai_model_streamer.pipeline.cuda.direct import DirectReads
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Copies, Image, needs_of, tensors_of
from runai_model_streamer.pipeline.cuda.lease import CudaLease, LeasesAhead
from runai_model_streamer.pipeline.cuda.memory import DeviceMemory
from runai_model_streamer.pipeline.cuda.near import Cpus, bind
from runai_model_streamer.pipeline.cuda.slots import Slot, SlotRing, page_locked_slots
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.pipeline.landing.tensors import empty_tensor
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.pipeline.tally.nvtx import in_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_read
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.threads.forks import OwnProcess

_log = logging.getLogger(__name__)

_MANY: Final = 1000
"""Tensors of a group above which their allocation pauses Python's garbage collector."""

_JOIN_SECONDS: Final = 1.0
"""Maximum seconds that closing waits for an allocation in flight. One that ends later frees its memory itself."""


class CudaLanding:
    """The `Landing` of one load on a GPU: slots, copy stream and events. See the top of this module.

    Args:
        driver: the device's driver; closed with the landing.
        memory: allocates the tensors; made in the caller's thread.
        staging: size and number of the slots.
        lifecycle: the load's.
        groups: the load's groups.
        arenas: lends the slots' memory.
        direct: the files that GPUDirect reads, if any; it ends with the landing.
        target: the format's name of the dtype that floating-point tensors are cast to; None to leave all as they are.
        cpus: what readers run on.
        ahead: see `Ahead`.

    Raises:
        CudaError: from here and from most methods: a call or a copy failed.
    """

    extra_stage = "copy"

    def __init__(
        self,
        driver: CudaDriver,
        memory: DeviceMemory,
        staging: Staging,
        lifecycle: Lifecycle,
        groups: Sequence[Group],
        arenas: Arenas,
        direct: DirectReads | None = None,
        target: str | None = None,
        cpus: Cpus = frozenset(),
        ahead: int = 0,
    ) -> None:
        self._driver = driver
        self._memory = memory
        self._lifecycle = lifecycle
        self._direct = direct
        self._target = target
        self._cpus = cpus
        self._staging = staging
        self._ring = SlotRing(driver, lifecycle, page_locked_slots(driver, staging, arenas))
        self._peak = self._ring.bytes
        self.waits = WaitClock()
        self._process = OwnProcess()
        self._leases: dict[int, CudaLease] = {}
        self._ahead = Ahead(lifecycle, ahead)
        self._leases_ahead = LeasesAhead(groups, lifecycle, self.waits)
        self._acquire = in_range("wait for a slot", self._ring.acquire)
        self._queue = in_range("copy", self._copy)
        try:
            self._stream = CopyStream(driver)
        except BaseException:
            with contextlib.suppress(CudaError):
                driver.release(self._ending(None))
            raise

    @property
    def peak(self) -> int:
        """Bytes of page-locked memory. The load has all of it from the start."""
        return self._peak

    def reads_at_once(self, length: int) -> int:
        """Return how many reads of so many bytes the slots have room for."""
        return self._staging.reads_at_once(length)

    def lease(self, group: Group, storage_bound: bool) -> CudaLease:  # noqa: ARG002 - makes no difference here
        """Return device memory, once the caller is near enough; see `Ahead`."""
        return self._leases_ahead.take(group, self._allocate)

    def _allocate(self, group: Group) -> CudaLease:
        self._driver.relax_capture()
        # Outside the driver's context: torch would replace it with another device's.
        allocated_for, image = self._ahead.give(group.index, partial(self._make_image, group), group.payload)
        with self._stream.queue() as stream:
            event = self._stream.event()
            self._driver.record_for_caller(event, allocated_for)
            self._driver.wait(stream, event)
        lease = CudaLease(group, image, allocated_for, event)
        self._leases[group.index] = lease
        return lease

    def _make_image(self, group: Group) -> tuple[int, Image]:
        """Allocate a group's memory. Return the stream that it is allocated for, and its image."""
        needs = needs_of(group, self._target)
        # Tens of thousands of tensors at once would have Python's collector look through all of torch's objects.
        with gc_paused() if len(needs.tensors) > _MANY else contextlib.nullcontext():
            allocated = self._memory.allocate(needs.forms)
            return allocated.stream, Image(group, allocated.tensors, self._target)

    def read(self, lease: CudaLease, step: Step, source: Source) -> Reading:
        """Read into a slot, of device memory if GPUDirect reads the file, and queue the copies from there."""
        if self._driver.attach():
            bind(self._cpus)
        direct = self._direct
        if direct is not None and not direct.has(step.file):
            direct = None
        if direct is None:
            ring, slot = self._ring, self._acquire(step.length)
        else:
            ring, slot = direct.ring, direct.ring.acquire(step.length)
        try:
            if direct is None:
                reading = timed_read(source, step.offset, slot.memory[: step.length])
            else:
                reading = direct.read(step, slot)
        except BaseException:
            ring.give_back(slot)
            raise
        self._queue(ring, slot, lease.image.copies(step, slot.address))
        return reading

    def _copy(self, ring: SlotRing, slot: Slot, copies: Copies) -> None:
        try:
            slot.event = self._stream.copy(copies, slot.event, on_device=ring is not self._ring)
        except Stopped:
            ring.give_back(slot)
            raise
        except BaseException:
            ring.strand()
            raise
        ring.copying(slot)

    def ready(self, lease: CudaLease) -> None:
        """Queue the casts, and record the group's event. All copies have been queued before."""
        with self._stream.queue() as stream:
            if lease.image.casts:
                self._memory.cast(lease.image.casts, stream)
                lease.image.casts.clear()
            self._driver.record(lease.event, stream)

    def take(self, group: Group, lease: CudaLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Yield tensors in batches of one: the caller's current stream may differ each time it asks for the next."""
        if lease is not None:
            self._memory.follow()
            self._ahead.take()
        return self._tensors(group, lease)

    def _tensors(self, group: Group, lease: CudaLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        if lease is None:
            for info in tensors_of(group):
                yield [(info.name, empty_tensor(info, self._memory.device))]
            return
        tensors, current_stream = lease.image.tensors, self._memory.current_stream
        waiting: set[int] = set()
        while tensors:
            stream = current_stream()
            if stream not in waiting:
                self._make_wait(stream, lease)
                waiting.add(stream)
            if stream != lease.stream:
                self._memory.record(tensors[-1][1])
            # Keep no reference to what is yielded.
            yield [tensors.pop()]
        self._leases.pop(group.index, None)
        self._stream.give_back(lease.event)

    def _make_wait(self, stream: int, lease: CudaLease) -> None:
        """Make a stream of the caller's wait for the group's copies and casts."""
        try:
            with self._stream.queue():
                self._driver.make_caller_wait(stream, lease.event)
        except Stopped:
            raise StateError("the load was closed while its tensors were being read") from None
        scratch = lease.image.pop_scratch()
        if scratch is not None and stream != lease.stream:
            self._memory.record(scratch)

    def await_group(self, index: int) -> None:
        """Note that the caller waits for this group; see `Ahead.await_group`."""
        self._ahead.await_group(index)

    def release(self, index: int) -> None:
        """Do nothing: yielded tensors belong to the caller."""

    def close(self) -> None:
        """Wait for the queued copies, then free slots, images, events and the stream, and close the files.

        A slot that a reader still fills is freed when its read ends.
        """
        if self._stream.stop():
            self._leases_ahead.close(_JOIN_SECONDS)
            self._driver.release(self._ending(self._stream))

    def _ending(self, stream: CopyStream | None) -> Iterator[Callable[[], object]]:
        if stream is not None:
            yield stream.drain
        yield self._leases.clear
        rings = [self._ring] if self._direct is None else [self._ring, self._direct.ring]
        for ring in rings:
            yield partial(ring.close, intact=stream is None or stream.drained)
        if stream is not None:
            yield from stream.ending()
        if not any(ring.held for ring in rings):
            yield self._driver.close

    def __del__(self) -> None:
        # The load was dropped without a close. In a forked child the driver is the parent's, and a process that ends
        # frees everything.
        if not hasattr(self, "_stream") or self._process.forked or sys.is_finalizing():
            return
        try:
            self.close()
        except CudaError as error:
            _log.warning("a load was dropped without a close, and its GPU memory could not be freed: %s", error)
