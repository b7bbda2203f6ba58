"""Page-locked host memory that loads stage bytes in. The process keeps it between loads.

Page-locking memory takes longer than reading as many bytes from the page cache. To page-lock or unlock it, CUDA may
wait for all work on the device. So a load has one arena for all its slots. A thread page-locks it while headers are
read, before the first byte is staged, and the next load uses it again. Nothing is page-locked or unlocked between a
load's first tensor and its last. A caller that runs a collective for each tensor would wait there for other ranks,
while they wait for its tensors.

Two loads at once have an arena each. If they shared its slots, each could wait for slots of the other: ranks that share
their loads would do so for ever, where rank 0's slots are full of a load that rank 1 has no slots for.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

import numpy as np

from runai_model_streamer.errors import CudaError, OutOfMemoryError, StreamerError
from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.near import Cpus, FindCpus, near_cpus, running_on
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.pipeline.memory.slabs import Slab
from runai_model_streamer.ranges import PAGE, round_up
from runai_model_streamer.threads.crew import Crew
from runai_model_streamer.threads.forks import keep_in_children

_PIECE: Final = 16 << 20
"""Bytes that one thread makes resident at a time."""

_MAX_TOUCHING: Final = 4
"""Maximum threads that make an arena resident. The kernel clears a few GB/s for each."""


class Arena:
    """Page-locked memory for one load at a time.

    Args:
        device: the device's number.
        api: `cuda.bindings.driver`, or a replacement.
        size: bytes of the memory.
        find_cpus: finds the CPUs on the GPU's node, on which the memory is to be.
    """

    def __init__(self, device: int, api: Any, size: int, find_cpus: FindCpus = near_cpus) -> None:
        self.device = device
        self.size = size
        self.memory: Future[memoryview] = Future()
        """The memory, once it is page-locked; or the `CudaError` or `OutOfMemoryError` that prevented that.

        The view keeps the memory mapped, but not page-locked.
        """
        self._api = api
        self._find_cpus = find_cpus
        self._slab: Slab | None = None
        self._driver: CudaDriver | None = None
        self._unlock: Callable[[], object] = lambda: None
        keep_in_children(self)

    def prepare(self) -> None:
        """Page-lock the memory, and resolve `memory`. Call it once, from any thread."""
        try:
            made = self._page_locked()
        except BaseException as error:
            self.memory.set_exception(error)
        else:
            self.memory.set_result(made)

    def _page_locked(self) -> memoryview:
        try:
            slab = Slab(round_up(self.size, PAGE), hides=True)
        except (OSError, MemoryError) as error:
            raise OutOfMemoryError(
                f"no memory for {self.size} bytes of staging for the GPU",
                remedy="to use less, set RUNAI_STREAMER_MEMORY_LIMIT; 0 uses the least",
                sep=": ",
            ) from error
        # A forked child would share the pages, and the parent's next write would then move them while the GPU reads.
        slab.hide_from_children(True)
        self._slab = slab
        memory = slab.memory()[: self.size]
        self._driver = driver = CudaDriver(self.device, self._api)
        try:
            _make_resident(memory, self._find_cpus(driver.pci_address))
            with driver.relaxed():
                try:
                    driver.page_lock(address_of(memory), self.size)
                    self._unlock = partial(driver.unlock_pages, address_of(memory))
                except CudaError:  # some platforms cannot register memory
                    address = driver.allocate_pinned(self.size)
                    self._unlock = partial(driver.free_pinned, address)
                    memory = memoryview((ctypes.c_uint8 * self.size).from_address(address)).cast("B")
                    self._slab = None
        except BaseException:
            with contextlib.suppress(CudaError):  # report the first error
                self._free()
            raise
        return memory

    @property
    def usable(self) -> bool:
        """Whether the memory is page-locked, or still being prepared."""
        return not self.memory.done() or self.memory.exception() is None

    def free(self) -> None:
        """Unlock the memory; if it is still being prepared, as soon as that is done. No copy from it may be pending.

        Raises:
            CudaError: it could not be unlocked. The mapping is then kept for ever, since the GPU may still access it.
        """
        if self.memory.done():
            self._free()
        else:
            self.memory.add_done_callback(self._free_quietly)

    def _free_quietly(self, _: object) -> None:
        with contextlib.suppress(CudaError):
            self._free()

    def _free(self) -> None:
        driver, self._driver = self._driver, None
        if driver is None:
            return
        try:
            driver.release([self._unlock, driver.close])
        except BaseException:
            _unlocked_in_vain.append(self._slab)
            raise
        finally:
            self._slab = None

    def missing_in_children(self) -> list[object]:
        """Return what forked children do not have."""
        return [self._slab]


_unlocked_in_vain: Final[list[Slab | None]] = []


def address_of(memory: memoryview) -> int:
    """Return the address of writable memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _make_resident(memory: memoryview, cpus: Cpus) -> None:
    """Touch each page, in several threads on these CPUs. Page-locked untouched, memory is cleared in one thread."""
    pages = np.frombuffer(memory, np.uint8)[::PAGE]
    step = _PIECE // PAGE
    pieces: SimpleQueue[np.ndarray[Any, Any]] = SimpleQueue()
    starts = range(0, len(pages), step)
    for start in starts:
        pieces.put(pages[start : start + step])

    def touch() -> None:
        with running_on(cpus), contextlib.suppress(Empty):
            while True:
                pieces.get_nowait()[...] = 0  # NumPy releases the GIL

    crew = Crew("toucher", "make memory resident")
    with contextlib.suppress(StreamerError):  # the system refuses threads: this thread touches all
        for _ in range(min(_MAX_TOUCHING, usable_cpus(), len(starts)) - 1):
            crew.add(touch)
    touch()
    crew.join()


class Arenas:
    """The arenas of a process that no load uses.

    Args:
        find_cpus: finds the CPUs on a GPU's node.
    """

    def __init__(self, find_cpus: FindCpus = near_cpus) -> None:
        self.find_cpus = find_cpus
        self._lock = threading.Lock()
        self._idle: list[Arena] = []

    def begin(self, device: int, api: Any, staging: Staging) -> None:
        """Begin to prepare an arena for the next load with this staging."""
        arena = self.lend(device, api, staging)
        with self._lock:
            self._idle.append(arena)

    def lend(self, device: int, api: Any, staging: Staging) -> Arena:
        """Return an idle arena that fits. If none does, free the device's idle arenas and make a new one.

        Args:
            device: the device's number.
            api: `cuda.bindings.driver`, or a replacement.
            staging: the load's.
        """
        with self._lock:
            of_device = [arena for arena in self._idle if arena.device == device]
            fitting = [arena for arena in of_device if arena.usable and staging.fits(arena.size)]
            arena = min(fitting, key=lambda each: each.size, default=None)
            dropped = of_device if arena is None else [arena]
            self._idle = [each for each in self._idle if each not in dropped]
        if arena is not None:
            return arena
        for each in dropped:
            with contextlib.suppress(CudaError):  # a fault of the device will fail the load itself
                each.free()
        arena = Arena(device, api, staging.bytes, self.find_cpus)
        try:
            Crew("pinner", "page-lock memory").add(arena.prepare)
        except StreamerError:  # the system refuses threads
            arena.prepare()
        return arena

    def give_back(self, arena: Arena, staging: Staging, *, intact: bool) -> None:
        """Keep the arena of a load that has ended, if the load's limit has room for all idle arenas of the device.

        Args:
            arena: returned by `lend`.
            staging: the load's.
            intact: whether no copy from the arena is pending.

        Raises:
            CudaError: the arena could not be unlocked.
        """
        with self._lock:
            idle = sum(each.size for each in self._idle if each.device == arena.device)
            kept = intact and arena.usable and idle + arena.size <= staging.kept
            if kept:
                self._idle.append(arena)
        if not kept:
            arena.free()

    def release(self) -> None:
        """Unlock and free the arenas that no load uses.

        Raises:
            CudaError: an arena could not be unlocked.
        """
        with self._lock:
            idle, self._idle = self._idle, []
        for arena in idle:
            arena.free()

    def forget(self) -> None:
        """Drop all arenas in a forked child: they are the parent's."""
        self._lock = threading.Lock()
        self._idle = []


ARENAS: Final = Arenas()
"""The idle arenas of this process."""

os.register_at_fork(after_in_child=ARENAS.forget)


def release_staging_memory() -> None:
    """Free the page-locked host memory that the process keeps for its next load onto a GPU.

    Memory that a running load uses is kept. Loads onto the host use memory of PyTorch's instead, which
    `torch.accelerator.empty_host_cache()` frees.

    Raises:
        CudaError: CUDA failed.
    """
    ARENAS.release()
