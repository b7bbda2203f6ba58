"""Errors of CUDA in a load: ours, with nothing left behind; or the caller's, at its next use of the device."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from runai_model_streamer.errors import CudaError, StreamerError
from tests.checkpoints import join_ours, our_threads, write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import TENSORS, left_behind, load, mapped, wrong

# What a process asks once, or torch asks between the calls of a load.
NOT_OF_THE_LOAD = {"cuInit", "cuDriverGetVersion", "cuCtxGetCurrent", "cuCtxGetDevice", "cuDevicePrimaryCtxGetState",
                   "cuGetProcAddress", "cuDeviceGetCount", "cuDeviceGetAttribute", "cuDeviceGetName", "cuDeviceGetUuid",
                   "cuDeviceTotalMem", "cuDeviceComputeCapability"}  # fmt: skip


def begin(emulator: Emulator) -> None:
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    emulator.reset()


@emulated_torch(modes=("lazy",), seconds=120)
def test_an_error_at_any_call_of_a_load_is_ours_and_leaves_nothing(emulator: Emulator, tmp_path: Path) -> None:
    tensors = dict(list(TENSORS.items())[:20])
    path = write(tmp_path / "two-groups.safetensors", tensors)
    begin(emulator)
    loaded = load(path)
    counts = Counter(emulator.calls())
    assert wrong(loaded, expected=tensors) == []
    loaded.clear()
    failed = 0
    for name in sorted(counts.keys() - NOT_OF_THE_LOAD):
        for nth in {1, (counts[name] + 1) // 2, counts[name]}:
            torch.cuda.empty_cache()
            emulator.reset()
            emulator.fail(name, nth, 2)
            try:
                loaded = load(path)
            except StreamerError:
                failed += 1
            emulator.take_misuses()
            emulator.reset()
            # Without an error of ours: torch tried again, or the call was the last of its kind.
            assert not loaded or wrong(loaded, expected=tensors) == [], (name, nth)
            loaded.clear()
            join_ours()
            assert left_behind(emulator) == {}, (name, nth)
    assert failed > 10
    assert wrong(load(path), expected=tensors) == []


@emulated_torch()
def test_a_copy_that_fails_as_it_runs_ends_the_load(emulator: Emulator, checkpoint: Path) -> None:
    begin(emulator)
    emulator.fail_when_run("cuMemcpyBatchAsync", 10, 700)
    with pytest.raises((CudaError, torch.AcceleratorError)):
        mapped(checkpoint, torch.Tensor.cpu)
    join_ours()
    assert our_threads() == []
