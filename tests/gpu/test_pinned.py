"""Loads onto the host in page-locked memory, and copies from there: by torch's own allocator, on a real GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import PinnedUnavailableError
from tests.checkpoints import raw, stored, write

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
TENSORS = {f"t{index}": stored("U8", (3 * MIB + 8 * index,), index) for index in range(64)}
CYCLES = 500_000_000
"""Of the GPU's clock, some 300 ms: longer than the load takes to ask for the memory of the first tensors again."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "model.safetensors", TENSORS)


@pytest.fixture(autouse=True)
def _initialized() -> None:
    torch.zeros(1, device="cuda")


def wrong(loaded: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in TENSORS.items() if raw(loaded[name].cpu()) != tensor.data]


@pytest.mark.parametrize("setting", ["auto", "1"])
def test_tensors_on_the_host_are_page_locked(
    streamer: SafetensorsStreamer, checkpoint: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", setting)
    streamer.stream_file(checkpoint)
    loaded = dict(streamer.get_tensors())
    assert [name for name, tensor in loaded.items() if not tensor.is_pinned()] == []
    assert wrong(loaded) == []


def test_never_is_ordinary_memory(
    streamer: SafetensorsStreamer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "0")
    streamer.stream_file(checkpoint)
    loaded = dict(streamer.get_tensors())
    assert [name for name, tensor in loaded.items() if tensor.is_pinned()] == []


@pytest.mark.parametrize("limit", ["-1", "0", str(64 * MIB)])
def test_a_tensor_may_be_dropped_while_its_copy_waits(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    streamer.stream_file(checkpoint)
    # All copies wait behind this, and the tensors they read from are gone by then.
    torch.cuda._sleep(CYCLES)  # noqa: SLF001 - what torch's own tests use
    copied = {}
    for name, tensor in streamer.get_tensors():
        copied[name] = tensor.to(device, non_blocking=True)
        del tensor
    torch.cuda.synchronize()
    assert wrong(copied) == []


def test_memory_goes_back_to_torch_and_is_given_out_again(streamer: SafetensorsStreamer, checkpoint: Path) -> None:
    places = set()
    for _ in range(3):
        streamer.stream_file(checkpoint)
        for _name, tensor in streamer.get_tensors():
            assert tensor.is_pinned()
            places.add(tensor.untyped_storage().data_ptr())
            del tensor
    assert len(places) < 3 * len(TENSORS) * 3 * MIB // (16 * MIB), "each group had a block of its own"


def test_a_cast_on_the_host_lands_in_page_locked_memory(streamer: SafetensorsStreamer, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    path = write(tmp_path / "model.safetensors", {"w": stored("BF16", (1000, 1000))})
    streamer.stream_file(path, dtype=torch.float32)
    ((_, tensor),) = streamer.get_tensors()
    assert tensor.is_pinned()
    # By its bytes: random ones hold NaNs, which are equal to nothing.
    assert raw(tensor.cuda().cpu()) == raw(tensor)


def test_readers_lock_memory_in_a_context_that_is_there_already(
    streamer: SafetensorsStreamer, checkpoint: Path
) -> None:
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext")  # noqa: B009, SLF001 - not in torch's stubs
    contexts = [has_context(index) for index in range(torch.cuda.device_count())]
    streamer.stream_file(checkpoint)
    assert all(tensor.is_pinned() for _, tensor in streamer.get_tensors())
    assert [has_context(index) for index in range(torch.cuda.device_count())] == contexts


_FRESH = """
import os, sys, warnings

warnings.simplefilter("ignore", DeprecationWarning)
import torch
from runai_model_streamer import SafetensorsStreamer

def load():
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(sys.argv[1])
        return dict(streamer.get_tensors())

tensors = load()
# Not whether they are pinned: to ask that, torch asks the driver, which the child could not use any more.
print(torch.cuda.is_initialized(), flush=True)
child = os.fork()
if not child:
    on_device = torch.ones(3, device="cuda").cpu().sum().item()
    print(on_device, all(tensor.is_pinned() for tensor in load().values()), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
"""


def fresh(checkpoint: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that has not touched the GPU."""
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-c", _FRESH]
    return subprocess.run([*command, str(checkpoint)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_auto_does_not_initialise_cuda_so_that_children_can_use_it(checkpoint: Path) -> None:
    done = fresh(checkpoint)
    assert done.stdout.splitlines() == ["False", "3.0 True", "0"], done.stderr


def test_always_where_cuda_is_not_initialised_says_what_to_do(checkpoint: Path) -> None:
    done = fresh(checkpoint, RUNAI_STREAMER_PINNED="1")
    assert f"{PinnedUnavailableError.__name__}: RUNAI_STREAMER_PINNED=1" in done.stderr
    assert "torch.cuda.init()" in done.stderr
