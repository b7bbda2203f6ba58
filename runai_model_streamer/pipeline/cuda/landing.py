"""The staged landing on a GPU: reads fill pinned slots, and a stream of our own copies them to the device.

Reader threads fill slots while the copies of earlier ones run; an event behind each slot's copies says when it may be
filled again, and an event for each group says when its tensors are there. Nothing here waits on the host for a copy,
but a reader that finds all slots in use, and `close`.

**Memory.** Each tensor has memory of its own from torch's caching allocator, all of a group at once. Not one piece for
the group: a caller who keeps a norm of a few KB and converts the large weights beside it would keep them all. And
tensors cut from one piece share a storage (`torch.save` of one writes all), or, handed over by DLPack, have one that
the allocator does not know: `Tensor.record_stream` then does nothing, without a word. An allocation costs about what
cutting and handing over does (3 microseconds), and its start suits every dtype and every vectorised kernel, wherever
the tensor lies in the file: what a read holds is copied tensor by tensor.

**Why no memory is used by two at once.** The allocator gives memory out in the order of one stream: the caller's, as
it was current at `stream_files` (S below; C is the copy stream). A piece may be given out while kernels queued on S
still use it for the tensor that was there before; and it is given out again as soon as it is free.

1. *Copies come after what was there before.* Behind each allocation an event is recorded on S, and C waits for it.
   A read by GPUDirect, which knows no streams, waits for it on the host.
2. *The caller's work comes after the copies.* C's event for the group is recorded behind its last copy. Before a
   tensor is yielded, the stream that is current in the caller's thread at that moment waits for it.
3. *What comes next in the memory comes after the caller's work and the copies.* While a tensor is the caller's, its
   memory is freed in the order of S, or, where another stream was current, also of that one, on which it is recorded:
   both behind 2. Memory that was not yielded belongs to this landing alone (not to an iterator that is dropped, nor
   to a lease), and is freed by `close` only, after C has been synchronised.

Memory is not recorded on C: 2 and 3 have put C's work first wherever it is freed, and the allocator would keep back
what the caller drops until C has come to the end of all that is queued there by then, the read-ahead.

4. *A slot is filled after its copy.* See `slots`.
5. *What is cast from outlives the casts.* Tensors that are cast land in scratch memory, one piece for a group,
   allocated with the group's own (1 holds for both). C casts them into their own behind all copies of the group, and
   after its reads by GPUDirect have come back, before it records the group's event (2). The lease has the scratch
   memory until the group's first tensor is taken: it is dropped behind the wait for that event, as if it were a tensor
   that the caller drops at once, so that 3 holds for it.

The limit bounds slots; tensors on the device are bounded by the groups that the caller has not taken yet
(`GROUPS_AHEAD`), since an engine's own parameters fill the card. They are leased in plan order, so the group that the
caller waits for always comes first. That bounds scratch memory too (a tensor that is larger makes a larger group).
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol

import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import CudaError, StateError
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.ahead import Ahead
from runai_model_streamer.pipeline.cuda.cast import DeviceCast
from runai_model_streamer.pipeline.cuda.copy_stream import CopyStream
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Image, Piece, needs_of, tensors_of
from runai_model_streamer.pipeline.cuda.memory import DeviceMemory
from runai_model_streamer.pipeline.cuda.slots import Slot, SlotRing, Staging
from runai_model_streamer.pipeline.landing.tensors import empty_tensor, tensor_of
from runai_model_streamer.pipeline.plan.casts import as_cast
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.reading import Reading, timed_call, timed_read
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.threads.forks import OwnProcess

_log = logging.getLogger(__name__)

MIN_DIRECT: Final = 256 << 10
"""Bytes for each tensor of a read, on average, from which on it goes by GPUDirect, where each is a read of its own."""


class DeviceFile(Protocol):
    """A file that can be read straight into device memory; see `io.gds.GdsFile`."""

    def read_into_device(self, offset: int, pointer: int, length: int) -> None:
        """Fill device memory, on which nothing is pending, with the file's bytes; return when they are there."""
        ...

    def close(self) -> None:
        """Idempotent. No read may be in flight."""
        ...


class CudaLease:
    """The device memory of one group."""

    __slots__ = ("event", "group", "image", "stream")

    def __init__(self, group: Group, image: Image, stream: int, event: int) -> None:
        self.group = group
        self.image = image
        self.stream = stream
        """In whose order the memory was allocated."""
        self.event = event
        """Recorded behind what was pending on the memory; when the group is complete, behind its copies."""


class CudaLanding:
    """Slots, copy stream and events of one load; see `Landing`, and the top of this module. Owns the files.

    Args:
        driver: of the device; closed with the landing.
        memory: for the tensors, made in the caller's thread.
        staging: the slots.
        lifecycle: of the load.
        files: those that GPUDirect reads, by their index in the plan.
        cast: what casts tensors as they land; None to leave them as they are.

    Raises:
        CudaError: from here and from most methods: a call failed, or a copy did.
    """

    extra_stage = "copy"

    def __init__(
        self,
        driver: CudaDriver,
        memory: DeviceMemory,
        staging: Staging,
        lifecycle: Lifecycle,
        files: Mapping[int, DeviceFile] | None = None,
        cast: DeviceCast | None = None,
    ) -> None:
        self._driver = driver
        self._memory = memory
        self._lifecycle = lifecycle
        self._files = files or {}
        self._cast = cast
        self._target = None if cast is None else cast.target
        self._ring = SlotRing(driver, staging, lifecycle)
        self._slot_bytes = staging.size
        self.waits = WaitClock()
        self._process = OwnProcess()
        self._leases: dict[int, CudaLease] = {}
        self._ahead = Ahead(lifecycle, self.waits)
        self._counting = threading.Lock()
        self._direct_reads = 0
        try:
            self._stream = CopyStream(driver)
        except BaseException:
            with contextlib.suppress(CudaError):
                driver.release(self._ending(None))
            raise

    @property
    def peak(self) -> int:
        """Bytes of pinned memory: slots are kept until the end."""
        return self._ring.made * self._slot_bytes

    def lease(self, group: Group, storage_bound: bool) -> CudaLease:  # noqa: ARG002 - nothing else to be had
        """Device memory, when the caller has taken all but `GROUPS_AHEAD` of the groups before."""
        self._driver.relax_capture()
        allocate = partial(self._memory.allocate, needs_of(group, self._target).sizes)
        # Outside the driver's context, which torch would leave for another device's.
        allocated_for, memory = self._ahead.give(group.index, allocate)
        with self._stream.queue() as stream:
            event = self._stream.event()
            self._driver.record_for_caller(event, allocated_for)
            self._driver.wait(stream, event)
        lease = CudaLease(group, Image(group, memory, self._target), allocated_for, event)
        self._leases[group.index] = lease
        return lease

    def read(self, lease: CudaLease, step: Step, source: Source) -> Reading:
        """Into a slot, whose copy is then queued; or straight into the image, where the file can be read so."""
        self._driver.relax_capture()
        pieces = list(lease.image.pieces(step))
        file = self._files.get(step.file)
        if file is not None and step.length >= MIN_DIRECT * len(pieces):
            return self._read_direct(lease, step, pieces, file)
        with nvtx_range("wait for a slot"):
            slot = self._ring.acquire()
        try:
            reading = timed_read(source, step.offset, slot.memory[: step.length])
        except BaseException:
            self._ring.give_back(slot)
            raise
        with nvtx_range("copy"):
            self._copy(slot, pieces)
        return reading

    def _read_direct(self, lease: CudaLease, step: Step, pieces: list[Piece], file: DeviceFile) -> Reading:
        def read() -> Origin:
            for piece in pieces:
                file.read_into_device(step.offset + piece.start, piece.pointer, piece.length)
            return Origin.DISK

        self._count_direct(1)
        try:
            with self._driver.current():
                # Not recorded again before this read is done: the group is not complete without it.
                self._driver.synchronize_event(lease.event)
                with nvtx_range("read"):
                    return timed_call(read)
        finally:
            self._count_direct(-1)

    def _count_direct(self, change: int) -> None:
        with self._counting:
            self._direct_reads += change

    def _copy(self, slot: Slot, pieces: list[Piece]) -> None:
        try:
            with self._stream.queue() as stream:
                for piece in pieces:
                    self._driver.copy_to_device(piece.pointer, slot.address + piece.start, piece.length, stream)
                self._driver.record(slot.event, stream)
        except Stopped:
            self._ring.give_back(slot)
            raise
        except BaseException:
            self._ring.strand(slot)
            raise
        self._ring.copying(slot)

    def ready(self, lease: CudaLease) -> None:
        """All copies have been queued: the casts and then the event for the group come behind them."""
        with self._stream.queue() as stream:
            if self._cast is not None:
                self._cast.queue(lease.image.casts, stream)
            self._driver.record(lease.event, stream)

    def take(self, group: Group, lease: CudaLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Tensors in batches of one: the caller may have another stream current each time it asks for the next."""
        if lease is not None:
            self._memory.follow()
            self._ahead.take()
        return self._tensors(group, lease)

    def _tensors(self, group: Group, lease: CudaLease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        waiting: set[int] = set()
        for planned in tensors_of(group):
            info = planned if self._target is None else as_cast(planned, self._target)
            if lease is None or not info.nbytes:
                yield [(info.name, empty_tensor(info, self._memory.device))]
            else:
                yield [(info.name, self._hand_over(lease, info, waiting))]
        if lease is not None:
            self._leases.pop(group.index, None)
            self._stream.give_back(lease.event)

    def _hand_over(self, lease: CudaLease, info: TensorInfo, waiting: set[int]) -> torch.Tensor:
        """The next tensor of the group, for the stream that is current; those in `waiting` wait for its copies."""
        stream = self._memory.current_stream()
        if stream not in waiting:
            try:
                with self._stream.queue():
                    self._driver.make_caller_wait(stream, lease.event)
            except Stopped:
                raise StateError("the load was closed while its tensors were being read") from None
            waiting.add(stream)
        memory, scratch = lease.image.pop(), lease.image.pop_scratch()
        if stream != lease.stream:
            self._memory.record(memory)
            if scratch is not None:
                self._memory.record(scratch)
        return tensor_of(info, memory)

    def await_group(self, index: int) -> None:
        """See `Ahead.await_group`: nothing else is in its way."""
        self._ahead.await_group(index)

    def release(self, index: int) -> None:
        """What has been given out is not this landing's any more."""

    def close(self) -> None:
        """Let the copies that are queued end; then free slots, images, events and the stream, and close the files.

        A slot that a reader hangs on to is freed when its read ends, and so is the memory of a direct one.
        """
        if self._stream.stop():
            self._driver.release(self._ending(self._stream))

    def _ending(self, stream: CopyStream | None) -> Iterator[Callable[[], object]]:
        if stream is not None:
            yield stream.drain
        yield self._leases.clear
        yield self._ring.close
        if stream is not None:
            yield from stream.ending()
        if not self._ring.held and not self._direct_reads:
            for file in self._files.values():
                yield file.close
            yield self._driver.close

    def __del__(self) -> None:
        # A load that was dropped without a close. In a forked child the driver is the parent's, and a process that
        # ends frees all of it.
        if not hasattr(self, "_stream") or self._process.forked or sys.is_finalizing():
            return
        try:
            self.close()
        except CudaError as error:
            _log.warning("a load that was not closed: %s", error)
