"""Loads with each of torch's allocators: expandable segments, CUDA's own pools, a cache that is off."""

import time
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import OutOfMemoryError
from tests.checkpoints import PATIENCE, raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import MIB, TENSORS, cloned, load, mapped, wrong


def kept_dropped_and_abandoned(emulator: Emulator, checkpoint: Path) -> None:
    assert wrong(load(checkpoint)) == []
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        name, tensor = next(streamer.get_tensors())
        assert raw(tensor.cpu()) == TENSORS[name].data
        del tensor
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        made = mapped(checkpoint, cloned)
    side.synchronize()
    assert wrong(made) == []


@emulated_torch(allocator="expandable")
def test_expandable_segments_hold_what_is_loaded(emulator: Emulator, checkpoint: Path) -> None:
    kept_dropped_and_abandoned(emulator, checkpoint)
    assert "cuMemMap" in emulator.calls()


@emulated_torch(allocator="expandable", modes=("lazy", "random"))
def test_expandable_segments_may_be_unmapped_and_mapped_again(emulator: Emulator, checkpoint: Path) -> None:
    for _ in range(2):
        assert wrong(load(checkpoint)) == []
        torch.cuda.empty_cache()
    assert "cuMemUnmap" in emulator.calls()


@emulated_torch(allocator="async")
def test_pools_of_cuda_hold_what_is_loaded(emulator: Emulator, checkpoint: Path) -> None:
    kept_dropped_and_abandoned(emulator, checkpoint)
    assert "cuMemAllocAsync" in emulator.calls()


def out_of_memory(emulator: Emulator, checkpoint: Path) -> None:
    emulator.set_device_memory(8 * MIB)
    with pytest.raises(OutOfMemoryError, match="cuda:0"):
        load(checkpoint)
    emulator.set_device_memory(1 << 30)
    assert wrong(load(checkpoint)) == []


@emulated_torch()
def test_a_full_device_is_an_error_and_the_next_load_works(emulator: Emulator, checkpoint: Path) -> None:
    out_of_memory(emulator, checkpoint)


@emulated_torch(allocator="expandable", modes=("lazy", "random"))
def test_so_it_is_with_expandable_segments(emulator: Emulator, checkpoint: Path) -> None:
    out_of_memory(emulator, checkpoint)


@emulated_torch()
def test_a_full_device_waits_for_what_the_caller_drops(emulator: Emulator, checkpoint: Path) -> None:
    # Of groups of 16 MiB, which torch asks for 20 MiB at a time, the device has no room for the three of a load.
    emulator.set_device_memory(48 * MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        tensors = streamer.get_tensors()
        name, tensor = next(tensors)
        deadline = time.monotonic() + PATIENCE
        while not torch.cuda.memory_stats()["num_ooms"]:  # the third group's
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert raw(tensor.cpu()) == TENSORS[name].data
        del tensor
        for name, tensor in tensors:
            assert raw(tensor.cpu()) == TENSORS[name].data
            del tensor


@emulated_torch(modes=("lazy", "random"))
def test_a_full_device_is_an_error_when_the_caller_keeps_all(emulator: Emulator, checkpoint: Path) -> None:
    emulator.set_device_memory(48 * MIB)
    with pytest.raises(OutOfMemoryError, match="cuda:0"):
        load(checkpoint)


@emulated_torch(modes=("lazy", "random"))
def test_in_a_pool_of_the_callers_dropped_tensors_leave_their_memory_to_the_next(
    emulator: Emulator, checkpoint: Path
) -> None:
    # While a pool is in use torch gives back no memory that was used on a second stream.
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        with torch.cuda.use_mem_pool(torch.cuda.MemPool()), torch.cuda.stream(torch.cuda.Stream()):
            for _, tensor in streamer.get_tensors():
                del tensor
            kept = torch.cuda.memory_stats()["active_bytes.all.current"]
    # What was allocated before the caller took its first tensor: two groups of four.
    assert kept < 0.75 * sum(len(tensor.data) for tensor in TENSORS.values())


@emulated_torch()
def test_a_fraction_of_the_device_is_a_bound_too(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(8 * MIB / (8 << 30))
    with pytest.raises(OutOfMemoryError, match="cuda:0"):
        load(checkpoint)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert wrong(load(checkpoint)) == []
