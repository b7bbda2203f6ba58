"""How much Python a load onto a GPU runs, on a driver and with reads that do nothing. Readers share the GIL for it.

Seconds depend on the machine; calls do not. `python -m benchmarks.ceiling --gpu` measures seconds.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.cuda.arena import Arenas
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Cast
from runai_model_streamer.pipeline.cuda.landing import CudaLanding
from runai_model_streamer.pipeline.cuda.memory import Allocated, new_tensors
from runai_model_streamer.pipeline.cuda.staging import staging_for
from runai_model_streamer.pipeline.landing.destination import Destination
from runai_model_streamer.pipeline.landing.tensors import TorchForm
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.plan.casts import Casting
from runai_model_streamer.pipeline.plan.groups import Group, Grouping, PlannedFile
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import infos
from tests.pipeline.cuda.test_driver import Recording
from tests.sources import MemorySource

STEPS = 400


class Unread(MemorySource):
    """Reads nothing."""

    @override
    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        return Origin.DISK


class Host:
    """Memory of the host in place of a device's; see `DeviceMemory`."""

    device = torch.device("cpu")

    def follow(self) -> None:
        """There is one stream."""

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        return Allocated(0, new_tensors(forms, self.device))

    def current_stream(self) -> int:
        return 0

    def prepare_casts(self, planned: Casting) -> None:
        """Nothing is cast."""

    def cast(self, casts: Sequence[Cast], stream: int) -> None:
        """Nothing is cast."""

    def record(self, tensor: torch.Tensor) -> None:
        """There is no other stream."""


@contextmanager
def counted() -> Iterator[list[None]]:
    """Note each call of a function in Python, in this thread and those that start meanwhile."""
    calls: list[None] = []

    def profile(_: Any, event: str, __: Any) -> None:
        if event == "call":
            calls.append(None)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def calls_of_a_step(tensors: int) -> float:
    """Python calls for each step, of a load with so many tensors in a step, by one reader."""
    planned = infos([PAGE // tensors] * (STEPS * tensors))
    files = [PlannedFile(STEPS * PAGE, SourceKind.FILE, 1, PAGE, planned)]
    staging = staging_for(None, PAGE, 1)

    def landing(lifecycle: Lifecycle, groups: Sequence[Group]) -> CudaLanding:
        return CudaLanding(CudaDriver(0, Recording()), Host(), staging, lifecycle, groups, Arenas())

    destination = Destination(Host.device, files, Grouping(None, 16 * PAGE), landing)
    source = Unread("m", bytes(STEPS * PAGE))
    load = Load(Storage(LoadConfig(), None, shared=False), [source], destination, 1)
    with counted() as calls:
        load.start()
        for _, tensor in load.tensors():
            del tensor
    return len(calls) / STEPS


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_step_and_a_further_tensor_in_it_take_few_python_calls() -> None:
    one, many = calls_of_a_step(1), calls_of_a_step(16)
    assert one < 95
    assert (many - one) / 15 < 4
