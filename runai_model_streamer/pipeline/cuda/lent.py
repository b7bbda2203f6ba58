"""Copies bytes to a GPU straight from memory that is lent: ranks that share a load have it in common.

Each process page-locks its own mapping of the memory. A reader that has been lent bytes queues their copies, waits
until these have run, and only then gives the bytes back, since another rank fills the memory again after that. So no
slot is needed, and no host copy.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from typing_extensions import override

from runai_model_streamer.errors import CudaError
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, farthest
from runai_model_streamer.pipeline.cuda.arena import address_of
from runai_model_streamer.pipeline.cuda.copy_stream import CopyStream
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Image
from runai_model_streamer.pipeline.cuda.landing import CudaLanding
from runai_model_streamer.pipeline.cuda.lease import CudaLease
from runai_model_streamer.pipeline.cuda.near import bind
from runai_model_streamer.pipeline.landing.lent import LentMemory, Loan
from runai_model_streamer.pipeline.plan.groups import Step
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.reading import Reading

_log = logging.getLogger(__name__)

_unlocked_in_vain: Final[list[memoryview]] = []
"""Memory that could not be unlocked. It stays mapped, since the GPU may still access it."""


class LentCopies:
    """Page-locked memory that is lent, and copies from it. Made by `page_locked`.

    Args:
        driver: the device's driver; it stays the landing's.
        lent: the memory.
        locked: its mappings, all of them page-locked; none of them if copies come from the device.
    """

    def __init__(self, driver: CudaDriver, lent: LentMemory, locked: list[memoryview]) -> None:
        self._driver, self._lent, self._locked = driver, lent, locked

    def read(self, image: Image, step: Step, stream: CopyStream, read_alone: Callable[[Step], Reading]) -> Reading:
        """Copy a step's bytes to the device, from an attached thread.

        Args:
            image: the group's memory on the device.
            step: the step.
            stream: where copies are queued.
            read_alone: reads a part of the step whose bytes are not in this memory.

        Raises:
            Stopped: the load has ended.
            CudaError: a copy failed.
            StreamerError: as `Source.read_into`.
        """
        origins, seconds, done = set[Origin](), 0.0, 0
        while done < step.length:
            began = time.perf_counter()
            with nvtx_range("read"):
                loan = self._lent.lend(step.file, step.offset + done, step.length - done)
            size = loan if isinstance(loan, int) else len(loan.memory)
            part = Step(step.file, step.offset + done, size, step.position + done)
            if isinstance(loan, int):
                reading = read_alone(part)
                origins.add(reading.origin)
                seconds += reading.seconds
            else:
                seconds += time.perf_counter() - began
                origins.add(loan.origin)
                with nvtx_range("copy"):
                    self._copy(loan, image, part, stream)
            done += size
        return Reading(farthest(origins), seconds)

    def _copy(self, loan: Loan, image: Image, part: Step, stream: CopyStream) -> None:
        lent = loan.memory
        copies = image.copies(part, lent.data_ptr() if isinstance(lent, torch.Tensor) else address_of(lent))
        if copies.sizes:
            event = stream.copy(copies, None, on_device=isinstance(lent, torch.Tensor))
            self._driver.synchronize_event(event)
            stream.give_back(event)
        loan.give_back()

    def ending(self) -> Iterator[Callable[[], object]]:
        """Yield the actions that unlock the memory and drop it; see `CudaDriver.release`. No copy may be pending."""
        while self._locked:
            yield partial(self._unlock, self._locked.pop())

    def _unlock(self, memory: memoryview) -> None:
        try:
            self._driver.unlock_pages(address_of(memory))
        except CudaError:
            _unlocked_in_vain.append(memory)
            raise


class LentLanding(CudaLanding):
    """A landing that copies what it can from memory that is lent, and reads the rest into slots.

    Args:
        lent: copies from that memory; its end is the landing's.
        arguments: those of `CudaLanding`.
    """

    def __init__(self, lent: LentCopies, *arguments: Any) -> None:
        self._lent = lent  # first: the end of a landing that cannot be made is this one's, too
        super().__init__(*arguments)

    @override
    def read(self, lease: CudaLease, step: Step, source: Source) -> Reading:
        if self._driver.attach():
            bind(self._cpus)
        return self._lent.read(
            lease.image, step, self._stream, lambda part: CudaLanding.read(self, lease, part, source)
        )

    @override
    def _ending(self, stream: CopyStream | None) -> Iterator[Callable[[], object]]:
        ending = super()._ending(stream)
        if stream is not None:
            yield next(ending)  # the wait for queued copies
        yield from self._lent.ending()
        yield from ending


def page_locked(driver: CudaDriver, lent: LentMemory) -> LentCopies | None:
    """Page-lock memory that is lent. Log it and return None if that fails: bytes then take one host copy more.

    Args:
        driver: the device's driver.
        lent: the memory.
    """
    locked: list[memoryview] = []
    try:
        with driver.relaxed():
            for memory in lent.mappings:
                driver.page_lock(address_of(memory), len(memory))
                locked.append(memory)
    except CudaError as error:
        with contextlib.suppress(CudaError):
            driver.release(partial(driver.unlock_pages, address_of(memory)) for memory in locked)
        _log.info(
            "The memory that ranks share cannot be page-locked, so that bytes are copied once more on their way to the "
            "GPU: %s",
            error,
        )
        return LentCopies(driver, lent, []) if lent.on_device else None
    return LentCopies(driver, lent, locked)
