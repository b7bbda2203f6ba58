"""Copies to a GPU straight from memory that is lent, on the emulated driver: nothing is read too late or too early."""

import ctypes
import logging
import mmap
import random
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from runai_model_streamer.errors import CudaError
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.landing.lent import Loan
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import numbered
from tests.cuda_emulator import MODES, Emulator, Mode
from tests.pipeline.cuda.world import Classes, CtypesApi, World
from tests.sources import MemorySource

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

FILES = [numbered([3000, 20_000, 0, 7, 9000, 100, 12_000, 5000, 4000, 30_000]), numbered([5, 50_000, 1])]
BLOCK = 3 * PAGE
ALONE = 4
"""Every so manyth block is not lent."""


class PlayedRing:
    """Slots that are filled when they are lent, and with something else as soon as they are given back."""

    def __init__(self, world: World, slots: int, sources: Sequence[MemorySource]) -> None:
        self._world, self._sources = world, sources
        self._mapping = mmap.mmap(-1, slots * BLOCK)
        self._free = [memoryview(self._mapping)[index * BLOCK :][:BLOCK] for index in range(slots)]
        self._changed = threading.Condition()
        self.lent = self.given_back = 0

    on_device = False

    @property
    def mappings(self) -> Sequence[memoryview]:
        half = len(self._mapping) // 2 // PAGE * PAGE
        return [memoryview(self._mapping)[:half], memoryview(self._mapping)[half:]]

    def _fill(self, slot: memoryview, data: bytes) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(slot))
        self._world.emulator.host_access(address, len(data), writes=True)
        slot[: len(data)] = data

    def close(self) -> None:
        """Free nothing."""

    def lend(self, file: int, offset: int, length: int) -> Loan | int:
        source = self._sources[file]
        block = offset // BLOCK
        size = min((block + 1) * BLOCK - offset, length)
        if block % ALONE == 0:
            return size
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            slot = self._free.pop()
            self.lent += 1
        data = bytearray(size)
        source.read_into(offset, memoryview(data))
        self._fill(slot, bytes(data))
        return Loan(slot[:size], Origin.RANK, partial(self._take_back, slot))

    def _take_back(self, slot: memoryview) -> None:
        self._fill(slot, random.Random(1).randbytes(BLOCK))
        with self._changed:
            self.given_back += 1
            self._free.append(slot)
            self._changed.notify()


class PlayedLane(PlayedRing):
    """The same with slots on the device, as ranks have them whose GPUs pass on what each has read."""

    on_device = True

    def __init__(self, world: World, slots: int, sources: Sequence[MemorySource]) -> None:
        super().__init__(world, slots, sources)
        self._addresses = [int(world.call("cuMemAlloc", BLOCK)) for _ in range(slots)]

    def lend(self, file: int, offset: int, length: int) -> Loan | int:
        loan = super().lend(file, offset, length)
        if isinstance(loan, int):
            return loan
        address = self._addresses.pop()
        self._copy(address, bytes(loan.memory))
        memory = torch.from_numpy(np.ctypeslib.as_array((ctypes.c_uint8 * len(loan.memory)).from_address(address)))
        return Loan(memory, loan.origin, partial(self._take, address, loan))

    def _take(self, address: int, loan: Loan) -> None:
        self._copy(address, random.Random(2).randbytes(BLOCK))
        self._addresses.append(address)
        loan.give_back()

    def _copy(self, address: int, data: bytes) -> None:
        held = ctypes.create_string_buffer(data)
        with self._world.current():
            self._world.call("cuMemcpyHtoD", address, ctypes.addressof(held), len(data))
            self._world.call("cuStreamSynchronize", 0)  # a copy from memory that is not page-locked may return earlier

    def close(self) -> None:
        """Free the slots."""
        for address in self._addresses:
            self._world.call("cuMemFree", address)


def loaded(
    emulator: Emulator,
    mode: Mode = "lazy",
    fails: tuple[str, int] | None = None,
    made_of: type[PlayedRing] = PlayedRing,
    **classes: Any,
) -> list[str]:
    """Load all, as a caller who drops each tensor once a kernel has read it; what went wrong."""
    emulator.reset()
    emulator.set_mode(mode)
    world = World(emulator, CtypesApi(emulator), Classes(**classes))
    world.faulty.fails = fails
    rings: list[PlayedRing] = []

    def ring(sources: Sequence[MemorySource]) -> PlayedRing:
        rings.append(made_of(world, 4, sources))
        return rings[0]

    wrong = []
    try:
        load = world.load(FILES, chunk=8 * PAGE, concurrency=3, group_bytes=16 * PAGE, lent=ring)
        for name, tensor in load.tensors():
            world.work_on(name, tensor)
            del tensor
        load.close()
        if world.results() != [(name, each.data) for file in FILES for name, each in file.items()]:
            wrong.append("the caller's kernels saw something else")
    finally:
        rings[0].close()
        left = world.close()
    assert fails is not None or rings[0].lent == rings[0].given_back > 0
    assert fails is None or rings[0].on_device or not rings[0].lent
    return wrong + left


@pytest.mark.parametrize("mode", MODES)
def test_what_is_lent_is_copied_right_and_given_back(mode: Mode, emulator: Emulator) -> None:
    for _ in range(10):
        assert loaded(emulator, mode) == []


def test_memory_that_is_given_back_before_its_copies_have_run_is_found(emulator: Emulator) -> None:
    class Hasty(CudaDriver):
        def synchronize_event(self, event: int) -> None:
            """Do not wait."""

    wrong = loaded(emulator, driver=Hasty)
    assert any("source-changed" in each or "host-access" in each or "saw something else" in each for each in wrong)


def test_an_event_that_is_recorded_before_the_copies_is_found(emulator: Emulator) -> None:
    class TooEarly(CudaDriver):
        """Records nothing of what was queued: its events have happened before they are waited for."""

        def record(self, event: int, stream: int) -> None:
            """Leave it as it is."""

    wrong = loaded(emulator, driver=TooEarly)
    assert any("source-changed" in each or "host-access" in each or "saw something else" in each for each in wrong)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_lent_on_the_device_is_copied_there(mode: Mode, emulator: Emulator) -> None:
    for _ in range(5):
        assert loaded(emulator, mode, made_of=PlayedLane) == []


def test_slots_on_the_device_that_are_given_back_before_their_copies_have_run_are_found(emulator: Emulator) -> None:
    class Hasty(CudaDriver):
        def synchronize_event(self, event: int) -> None:
            """Do not wait."""

    wrong = loaded(emulator, made_of=PlayedLane, driver=Hasty)
    assert any("race" in each or "saw something else" in each for each in wrong)


def test_what_is_lent_on_the_device_is_copied_there_even_if_nothing_on_the_host_can_be_page_locked(
    emulator: Emulator,
) -> None:
    assert loaded(emulator, fails=("cuMemHostRegister", 1), made_of=PlayedLane) == []


@pytest.mark.parametrize("number", [1, 2])
def test_memory_that_cannot_be_page_locked_is_read_through_slots_and_the_log_says_so_once(
    emulator: Emulator, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    with caplog.at_level(logging.INFO, "runai_model_streamer.pipeline.cuda"):
        assert loaded(emulator, fails=("cuMemHostRegister", number)) == []
    told = [record.getMessage() for record in caplog.records if "cannot be page-locked" in record.getMessage()]
    assert len(told) == 1
    assert "cuMemHostRegister failed" in told[0]


def test_memory_that_cannot_be_unlocked_is_an_error_of_the_close(emulator: Emulator) -> None:
    emulator.reset()
    world = World(emulator, CtypesApi(emulator))
    load = world.load(FILES, chunk=8 * PAGE, lent=partial(PlayedRing, world, 4))
    world.faulty.fails = ("cuMemHostUnregister", 1)
    with pytest.raises(CudaError, match="cuMemHostUnregister failed"):
        deque(load.tensors(), maxlen=0)
    world.faulty.fails = None
    assert world.close() == []  # the fake undoes it all the same, and so the other mapping was unlocked, too
