"""Loads with each of torch's allocators: expandable segments, CUDA's own pools, a cache that is off."""

from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import OutOfMemoryError
from tests.checkpoints import raw
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
def test_a_fraction_of_the_device_is_a_bound_too(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(8 * MIB / (8 << 30))
    with pytest.raises(OutOfMemoryError, match="cuda:0"):
        load(checkpoint)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert wrong(load(checkpoint)) == []
