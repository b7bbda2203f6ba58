"""Whole loads onto a device, through torch's caching allocator: the right bytes, and nothing left behind."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, release_staging_memory
from runai_model_streamer.errors import DeviceError
from tests.checkpoints import join_ours, raw, stored, write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, MIB, TENSORS, cloned, left_behind, load, mapped, wrong

EVERY_DTYPE = {
    "bf16": stored("BF16", (1000, 101)),
    "odd": stored("U8", (1001,)),
    "empty": stored("F16", (0, 7)),
    "bool": stored("BOOL", (999,)),
    "f8": stored("F8_E4M3", (4097,)),
    "i64": stored("I64", (5, 5)),
    "scalar": stored("F32", ()),
    "large": stored("U8", (6 * MIB + 13,)),
    "last": stored("BF16", (7,)),
}


@emulated_torch()
def test_every_dtype_lands_right(emulator: Emulator, tmp_path: Path) -> None:
    path = write(tmp_path / "dtypes.safetensors", EVERY_DTYPE)
    loaded = load(path)
    assert wrong(loaded, expected=EVERY_DTYPE) == []
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {
        name: tensor.shape for name, tensor in EVERY_DTYPE.items()
    }


@pytest.mark.parametrize("limit", ["0", str(8 * MIB), "-1"])
@emulated_torch(modes=("lazy", "random"))
def test_every_limit_loads_the_same_bytes(
    emulator: Emulator, checkpoint: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    assert wrong(load(checkpoint)) == []


@emulated_torch()
def test_what_is_kept_and_then_dropped_leaves_nothing(emulator: Emulator, checkpoint: Path) -> None:
    loaded = load(checkpoint)
    assert wrong(loaded) == []
    loaded.clear()
    assert left_behind(emulator) == {}


PINNING = ("cuMemHostAlloc", "cuMemFreeHost", "cuMemHostRegister", "cuMemHostUnregister")


@emulated_torch()
def test_a_process_page_locks_once_before_its_first_tensor(emulator: Emulator, checkpoint: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        tensors = streamer.get_tensors()
        next(tensors)
        first = [call for call in emulator.calls() if call in PINNING]
        del tensors
    assert wrong(load(checkpoint)) == []
    assert [call for call in emulator.calls() if call in PINNING] == first == ["cuMemHostRegister"]
    release_staging_memory()
    assert left_behind(emulator) == {}


@emulated_torch()
def test_nothing_that_page_locks_waits_for_the_callers_work(emulator: Emulator, checkpoint: Path) -> None:
    assert wrong(load(checkpoint)) == []
    emulator.reset()
    emulator.set_pinning_waits(True)
    mapped(checkpoint, cloned)
    assert [call for call in emulator.calls() if call in PINNING] == []


@emulated_torch()
def test_tensors_that_are_dropped_as_they_come_leave_nothing(emulator: Emulator, checkpoint: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        for name, tensor in streamer.get_tensors():
            assert raw(tensor.cpu()) == TENSORS[name].data
            del tensor
    assert left_behind(emulator) == {}


@emulated_torch()
def test_a_load_that_is_abandoned_leaves_nothing_and_the_next_one_works(emulator: Emulator, checkpoint: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        name, tensor = next(streamer.get_tensors())
        assert raw(tensor.cpu()) == TENSORS[name].data
        del tensor
        streamer.stream_files([str(checkpoint)], device="cuda")
        loaded = dict(streamer.get_tensors())
    assert wrong(loaded) == []
    loaded.clear()
    assert left_behind(emulator) == {}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@emulated_torch()
def test_a_load_that_is_dropped_without_a_close_leaves_nothing(emulator: Emulator, checkpoint: Path) -> None:
    streamer = SafetensorsStreamer()
    streamer.stream_files([str(checkpoint)], device="cuda")
    tensors = streamer.get_tensors()
    next(tensors)
    del streamer, tensors
    gc.collect()
    join_ours()
    assert left_behind(emulator) == {}


@emulated_torch()
def test_loads_in_several_threads_do_not_mix(emulator: Emulator, checkpoint: Path) -> None:
    results: list[list[str]] = []

    def run() -> None:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            made = mapped(checkpoint, cloned)
        side.synchronize()
        results.append(wrong(made))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[]] * 3
    assert left_behind(emulator) == {}


@emulated_torch()
def test_another_thread_may_take_the_tensors(emulator: Emulator, checkpoint: Path) -> None:
    made: dict[str, torch.Tensor] = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        tensors = streamer.get_tensors()

        def run() -> None:
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for name, tensor in tensors:
                    made[name] = cloned(tensor)
                    del tensor
            side.synchronize()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert wrong(made) == []


@emulated_torch()
def test_the_cache_of_torchs_allocator_may_be_emptied_meanwhile(emulator: Emulator, checkpoint: Path) -> None:
    torch.cuda.init()
    stop = threading.Event()

    def churn() -> None:
        while not stop.wait(0.001):
            torch.cuda.empty_cache()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        made = mapped(checkpoint, cloned)
    finally:
        stop.set()
        thread.join()
    assert wrong(made) == []


@emulated_torch(modes=("lazy",))
def test_each_tensor_has_a_storage_of_its_own(emulator: Emulator, checkpoint: Path) -> None:
    loaded = load(checkpoint)
    assert [name for name, tensor in loaded.items() if tensor.untyped_storage().nbytes() != tensor.nbytes] == []
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == len(TENSORS)


@emulated_torch()
def test_tensors_handed_over_by_dlpack_outlive_ours(emulator: Emulator, checkpoint: Path) -> None:
    theirs = mapped(checkpoint, torch.utils.dlpack.from_dlpack)
    gc.collect()
    other = torch.empty(16 * MIB, dtype=torch.uint8, device=DEVICE).fill_(1)
    assert wrong(theirs) == []
    del other


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@emulated_torch(modes=("lazy",))
def test_a_forked_child_gets_an_error_that_says_why(emulator: Emulator, checkpoint: Path, device: str) -> None:
    assert wrong(load(checkpoint)) == []
    child = os.fork()
    if not child:
        try:
            load(checkpoint, device)
        except DeviceError as error:
            os._exit(0 if "fork" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
