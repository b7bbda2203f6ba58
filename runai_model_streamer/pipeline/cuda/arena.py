"""Page-locked host memory that loads stage bytes in. The process keeps it between loads.

Page-locking memory takes longer than reading as many bytes from the page cache, and CUDA may make it, and its end, wait
for all work on the device. So a load has one arena for all its slots. The arena is page-locked in a thread of its own
while headers are read, before the first byte is staged, and the next load uses it again. Nothing is page-locked or
unlocked between the first tensor of a load and its last: a caller that runs a collective for each tensor would wait for
other ranks there, and they for its tensors.
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
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.pipeline.memory.slabs import Slab
from runai_model_streamer.ranges import PAGE, round_up
from runai_model_streamer.threads.crew import Crew
from runai_model_streamer.threads.forks import keep_in_children

_PIECE: Final = 16 << 20
"""Bytes that one thread makes resident at a time."""

_MAX_TOUCHING: Final = 4
"""The most threads that make an arena resident. The kernel clears memory at a few GB/s for each."""


class Arena:
    """Page-locked memory for one load at a time.

    Args:
        device: the device's number.
        api: `cuda.bindings.driver`, or a replacement.
        size: in bytes.
    """

    def __init__(self, device: int, api: Any, size: int) -> None:
        self.device = device
        self.size = size
        self.memory: Future[memoryview] = Future()
        """Its bytes, once they are page-locked; or why they are not: a `CudaError` or `OutOfMemoryError`.

        The view keeps the memory mapped, not page-locked.
        """
        self._api = api
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
                f"no memory for {self.size} bytes to stage for the GPU in",
                remedy="for less set RUNAI_STREAMER_MEMORY_LIMIT, to 0 for the least",
                sep=": ",
            ) from error
        # A forked child would share its pages, and the parent's next write would move them away under the GPU.
        slab.hide_from_children(True)
        self._slab = slab
        memory = slab.memory()[: self.size]
        _make_resident(memory)
        self._driver = driver = CudaDriver(self.device, self._api)
        try:
            with driver.current():
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
        """Unlock the memory, on which no copy is pending; if it is still being prepared, as soon as that is done.

        Raises:
            CudaError: it could not be unlocked. The mapping is then kept for ever, since the GPU may have access to it.
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


def _make_resident(memory: memoryview) -> None:
    """Touch each page, by several threads. Page-locking alone would have the kernel clear them by one."""
    pages = np.frombuffer(memory, np.uint8)[::PAGE]
    step = _PIECE // PAGE
    pieces: SimpleQueue[np.ndarray[Any, Any]] = SimpleQueue()
    starts = range(0, len(pages), step)
    for start in starts:
        pieces.put(pages[start : start + step])

    def touch() -> None:
        with contextlib.suppress(Empty):
            while True:
                pieces.get_nowait()[...] = 0  # NumPy releases the GIL

    crew = Crew("toucher", "make memory resident")
    with contextlib.suppress(StreamerError):  # the system refuses threads: this one does it all
        for _ in range(min(_MAX_TOUCHING, usable_cpus(), len(starts)) - 1):
            crew.add(touch)
    touch()
    crew.join()


class Arenas:
    """The arenas of a process that no load uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Arena] = []

    def begin(self, device: int, api: Any, staging: Staging) -> None:
        """Have an arena prepared for the next load of this staging."""
        arena = self.lend(device, api, staging)
        with self._lock:
            self._idle.append(arena)

    def lend(self, device: int, api: Any, staging: Staging) -> Arena:
        """Return an idle arena that fits, or a new one. Of the device's others, none is kept.

        Args:
            device: the device's number.
            api: `cuda.bindings.driver`, or a replacement.
            staging: of the load.
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
            with contextlib.suppress(CudaError):  # whatever is wrong with the device will fail the load itself
                each.free()
        arena = Arena(device, api, staging.bytes)
        try:
            Crew("pinner", "page-lock memory").add(arena.prepare)
        except StreamerError:  # the system refuses threads
            arena.prepare()
        return arena

    def give_back(self, arena: Arena, staging: Staging, *, intact: bool) -> None:
        """Keep the arena of a load that has ended, if the load's limit has room for all idle arenas of the device.

        Args:
            arena: what `lend` returned.
            staging: of the load.
            intact: no copy from the arena is pending.

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
        """Unlock and free what no load uses.

        Raises:
            CudaError: an arena could not be unlocked.
        """
        with self._lock:
            idle, self._idle = self._idle, []
        for arena in idle:
            arena.free()

    def forget(self) -> None:
        """In a forked child: the arenas are the parent's."""
        self._lock = threading.Lock()
        self._idle = []


ARENAS: Final = Arenas()
"""Those of this process."""

os.register_at_fork(after_in_child=ARENAS.forget)


def release_staging_memory() -> None:
    """Free the page-locked host memory that the process keeps for its next load onto a GPU.

    Memory that a running load uses is kept. Loads onto the host use memory of PyTorch's instead, which
    `torch.accelerator.empty_host_cache()` frees.

    Raises:
        CudaError: CUDA failed.
    """
    ARENAS.release()
