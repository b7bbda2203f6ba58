"""Loads onto the host in page-locked memory of torch's own allocator, and copies from there that run late."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import PinnedUnavailableError
from tests.checkpoints import raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, MIB, TENSORS, load, mapped, not_pinned, sleep, wrong


@pytest.fixture
def initialized() -> None:
    torch.cuda.init()


def moved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("cuda", non_blocking=True)


@pytest.mark.usefixtures("initialized")
@pytest.mark.parametrize("setting", ["auto", "1"])
@emulated_torch(modes=("lazy",))
def test_tensors_on_the_host_are_page_locked(
    emulator: Emulator, checkpoint: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "-1")
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", setting)
    loaded = load(checkpoint, "cpu")
    assert not_pinned(loaded) == []
    assert wrong(loaded, "cpu") == []


@pytest.mark.parametrize("limit", ["0", str(8 * MIB), "-1"])
@pytest.mark.usefixtures("initialized")
@emulated_torch()
def test_a_tensor_may_be_dropped_while_its_copy_waits(
    emulator: Emulator, checkpoint: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    sleep()
    made = mapped(checkpoint, moved, "cpu")
    torch.cuda.synchronize()
    assert wrong(made) == []


@pytest.mark.usefixtures("initialized")
@emulated_torch()
def test_so_it_may_on_a_side_stream(emulator: Emulator, checkpoint: Path) -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        made = mapped(checkpoint, moved, "cpu")
    side.synchronize()
    assert wrong(made) == []


@pytest.mark.usefixtures("initialized")
@emulated_torch()
def test_so_may_the_source_of_copies_into_parameters(emulator: Emulator, checkpoint: Path) -> None:
    parameters = {name: torch.empty(tensor.shape, dtype=torch.uint8, device=DEVICE) for name, tensor in TENSORS.items()}
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint)
        for name, tensor in streamer.get_tensors():
            parameters[name].copy_(tensor, non_blocking=True)
            del tensor
    torch.cuda.synchronize()
    assert wrong(parameters) == []


@pytest.mark.usefixtures("initialized")
@emulated_torch()
def test_slices_viewed_as_another_dtype_are_copied_right(emulator: Emulator, checkpoint: Path) -> None:
    half = MIB >> 2
    made = mapped(checkpoint, lambda tensor: moved(tensor[:half].view(torch.int32)), "cpu")
    torch.cuda.synchronize()
    assert [name for name in TENSORS if raw(made[name].cpu()) != TENSORS[name].data[:half]] == []


def dlpack(tensor: torch.Tensor) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(tensor)


def _array(tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.numpy())


@pytest.mark.parametrize("handed_over", [_array, dlpack])
@pytest.mark.usefixtures("initialized")
@emulated_torch(modes=("lazy",))
def test_memory_that_was_handed_over_is_not_given_out_again(
    emulator: Emulator, checkpoint: Path, handed_over: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    theirs = mapped(checkpoint, handed_over, "cpu")
    gc.collect()
    again = load(checkpoint, "cpu")
    assert wrong(theirs, "cpu") == []
    assert wrong(again, "cpu") == []


@pytest.mark.usefixtures("initialized")
@emulated_torch(modes=("lazy",))
def test_after_a_fork_the_child_loads_into_ordinary_memory(emulator: Emulator, checkpoint: Path) -> None:
    mine = load(checkpoint, "cpu")
    child = os.fork()
    if not child:
        os._exit(0 if wrong(load(checkpoint, "cpu"), "cpu") == [] else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert wrong(mine, "cpu") == []


@pytest.mark.usefixtures("initialized")
@emulated_torch(modes=("lazy",))
def test_after_a_fork_the_child_is_told_why_it_cannot_have_page_locked_memory(
    emulator: Emulator, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "-1")
    assert not_pinned(load(checkpoint, "cpu")) == []
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    child = os.fork()
    if not child:
        try:
            load(checkpoint, "cpu")
        except PinnedUnavailableError:
            os._exit(0)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("initialized")
@emulated_torch(modes=("lazy",))
def test_what_the_user_had_torch_free_does_not_count(
    emulator: Emulator, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bound of `auto` is the limit: each of the loads below would fill most of it.
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(64 * MIB))
    torch.zeros(1, device=DEVICE)
    for _ in range(4):
        assert [name for name, pinned in mapped(checkpoint, torch.Tensor.is_pinned, "cpu").items() if not pinned] == []
        gc.collect()
        emptied = emulator.live("pinned_bytes")
        torch.accelerator.empty_host_cache()
        assert emulator.live("pinned_bytes") < emptied
