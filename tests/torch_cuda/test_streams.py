"""The order of work on the caller's streams and the copy stream, in memory that torch's allocator gives out again."""

from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, MIB, TENSORS, cloned, load, mapped, sleep, synchronize, wrong


@emulated_torch()
def test_a_tensor_may_be_dropped_while_its_clone_waits_on_a_side_stream(emulator: Emulator, checkpoint: Path) -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        made = mapped(checkpoint, cloned)
    side.synchronize()
    assert wrong(made) == []


@emulated_torch()
def test_streams_may_be_taken_up_in_turn(emulator: Emulator, checkpoint: Path) -> None:
    sides = [torch.cuda.Stream() for _ in range(3)]
    made = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        tensors = streamer.get_tensors()
        for index in range(len(TENSORS)):
            with torch.cuda.stream(sides[index % len(sides)]):
                name, tensor = next(tensors)
                made[name] = cloned(tensor)
                del tensor
        assert next(tensors, None) is None
    synchronize(sides)
    assert wrong(made) == []


@emulated_torch()
def test_a_load_begun_on_a_side_stream_may_be_taken_on_the_default_one(emulator: Emulator, checkpoint: Path) -> None:
    made = {}
    with SafetensorsStreamer() as streamer:
        with torch.cuda.stream(torch.cuda.Stream()):
            streamer.stream_files([str(checkpoint)], device="cuda")
        for name, tensor in streamer.get_tensors():
            made[name] = cloned(tensor)
            del tensor
    torch.cuda.current_stream().synchronize()
    assert wrong(made) == []


@emulated_torch()
def test_record_stream_keeps_a_tensor_for_another_stream(emulator: Emulator, checkpoint: Path) -> None:
    side = torch.cuda.Stream()

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            copy = cloned(tensor)
        tensor.record_stream(side)
        return copy

    made = mapped(checkpoint, copied)
    side.synchronize()
    assert wrong(made) == []


@emulated_torch()
def test_what_was_pending_on_memory_does_not_overwrite_what_is_loaded_into_it(
    emulator: Emulator, checkpoint: Path
) -> None:
    earlier = torch.empty(24 * MIB, dtype=torch.uint8, device=DEVICE)
    sleep()
    earlier.fill_(0xEE)
    del earlier
    assert wrong(load(checkpoint)) == []


@emulated_torch()
def test_fills_by_deterministic_algorithms_come_before_what_is_loaded(emulator: Emulator, checkpoint: Path) -> None:
    # Torch then fills all memory that it gives out, on the stream that it gives it out for.
    torch.use_deterministic_algorithms(True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        made = mapped(checkpoint, cloned)
    side.synchronize()
    assert wrong(made) == []
    assert "cuLaunchKernel" in emulator.calls()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@emulated_torch()
def test_a_load_synchronizes_nothing(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.init()
    torch.cuda.set_sync_debug_mode("error")
    loaded, host = load(checkpoint), load(checkpoint, "cpu")
    torch.cuda.set_sync_debug_mode("default")
    assert wrong(loaded) == []
    assert wrong(host, "cpu") == []
