"""Readers and page-locked memory on the GPU's NUMA node; on machines described by a fake sysfs."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.cuda.near import enough, near_cpus, running_on
from tests.checkpoints import numbered, raw
from tests.cuda_emulator import Emulator
from tests.pipeline.cuda.world import CtypesApi, Tender, World

GPU = "0000:C1:00.0"

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: there is nothing to choose")


def machine(folder: Path, cpus: str) -> Path:
    """A sysfs with a GPU, near these CPUs."""
    device = folder / "bus/pci/devices" / GPU.lower()
    device.mkdir(parents=True)
    (device / "local_cpulist").write_text(cpus)
    return folder


@pytest.mark.parametrize(
    ("local", "allowed", "near"),
    [
        ("32-63,96-127\n", range(128), {*range(32, 64), *range(96, 128)}),
        ("0-3,8\n", {2, 3, 4, 8}, {2, 3, 8}),
        ("5\n", range(8), {5}),
    ],
)
def test_on_a_machine_of_several_nodes_it_is_the_gpus_own_within_the_process_mask(
    tmp_path: Path, local: str, allowed: set[int], near: set[int]
) -> None:
    assert near_cpus(GPU, set(allowed), machine(tmp_path, local)) == near


@pytest.mark.parametrize("local", ["0-7\n", "8-15\n", "\n", "none\n"], ids=["one node", "another's", "empty", "odd"])
def test_elsewhere_threads_stay_where_they_are(tmp_path: Path, local: str) -> None:
    assert near_cpus(GPU, set(range(8)), machine(tmp_path, local)) == frozenset()


def test_a_device_that_the_kernel_does_not_show_has_no_node(tmp_path: Path) -> None:
    assert near_cpus(GPU, {0, 1}, tmp_path) == frozenset()


@pytest.mark.parametrize(
    ("near", "readers", "allowed", "bound"),
    [(64, 16, 128, True), (24, 16, 192, True), (8, 16, 16, True), (1, 16, 32, False), (4, 256, 64, False)],
)
def test_readers_are_bound_to_no_fewer_cpus_than_they_need(near: int, readers: int, allowed: int, bound: bool) -> None:
    cpus = frozenset(range(near))
    assert enough(cpus, readers, allowed) == (cpus if bound else frozenset())


@needs_two_cpus
def test_a_thread_goes_back_to_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    with running_on(frozenset({min(before)})):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_cpus_that_the_kernel_refuses_change_nothing() -> None:
    before = os.sched_getaffinity(0)
    with running_on(frozenset({1 << 15})):
        assert os.sched_getaffinity(0) == before


@needs_two_cpus
def test_readers_run_near_the_gpu_and_the_caller_where_it_was(emulator: Emulator) -> None:
    before = os.sched_getaffinity(0)
    near = frozenset({max(before)})
    asked: list[str] = []
    ran_on: list[set[int]] = []

    def find_cpus(address: str) -> frozenset[int]:
        asked.append(address)
        return near

    class Watching(Tender):
        def read_into(self, offset: int, buffer: memoryview) -> Origin:
            ran_on.append(os.sched_getaffinity(0))
            return super().read_into(offset, buffer)

    world = World(emulator, CtypesApi(emulator), find_cpus=find_cpus)
    file = numbered([20_000] * 6)
    headers = 1
    kept = list(world.load([file], source=Watching).tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in file.values()]
    assert ran_on[headers:]
    assert all(cpus == near for cpus in ran_on[-5:])
    assert os.sched_getaffinity(0) == before
    assert len(asked) == 2  # for the arena and for the readers
    assert set(asked) == {CtypesApi(emulator).cuDeviceGetPCIBusId(16, 0)[1].partition(b"\0")[0].decode()}
    kept.clear()
    assert world.close() == []
