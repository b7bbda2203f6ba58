"""Whole loads into page-locked memory, with torch's allocator played by a fake: RUNAI_STREAMER_PINNED."""

import gc
import os
import random
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from runai_model_streamer import streamer as streamer_module
from runai_model_streamer.errors import OutOfMemoryError, PinnedUnavailableError, ReadError, StreamerError
from tests.checkpoints import Stored, join_ours, raw, stored, write
from tests.pinned_memory import Copy, PinnedMemory, pinned_memory

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
DTYPES = ("BF16", "F32", "U8", "F16", "F8_E4M3", "I64", "BOOL")


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def memory() -> Iterator[PinnedMemory]:
    with pinned_memory() as memory:
        yield memory
        join_ours()  # whose last read may have been in a block


def tensors_of(seed: int, count: int = 60) -> dict[str, Stored]:
    """Of many sizes and dtypes: empty, odd, unaligned, and some that need a group each."""
    chosen = random.Random(seed)
    found = {}
    for index in range(count):
        dtype = chosen.choice(DTYPES)
        size = 0 if chosen.random() < 0.1 else int(10 ** chosen.uniform(0, 5.5))
        found[f"t{index}"] = stored(dtype, (size,), 1000 * seed + index)
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Stored]]:
    tensors = tensors_of(0)
    return write(tmp_path_factory.mktemp("checkpoint") / "model.safetensors", tensors), tensors


Checkpoint = tuple[Path, dict[str, Stored]]


@pytest.mark.parametrize("pinned_setting", ["auto", "1"])
@pytest.mark.parametrize("limit", ["-1", "0", "3000000"])
def test_kept_tensors_are_the_files_and_lie_in_blocks(
    memory: PinnedMemory, checkpoint: Checkpoint, limit: str, pinned_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", pinned_setting)
    path, tensors = checkpoint
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        loaded = dict(streamer.get_tensors())
    assert {name: raw(tensor) for name, tensor in loaded.items()} == {name: each.data for name, each in tensors.items()}
    if pinned_setting == "1":
        inside = [memory.holds(tensor) for tensor in loaded.values() if tensor.element_size() == 1 and tensor.numel()]
        assert len(inside) > 10
        assert all(inside)
    assert memory.in_use
    loaded.clear()
    join_ours()
    assert memory.in_use == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_copies_that_run_late_are_right_whatever_is_dropped_and_kept(
    memory: PinnedMemory, tmp_path: Path, seed: int, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(seed)
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(chosen.choice([-1, 0, 4_000_000, 20_000_000])))
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", chosen.choice(["auto", "1"]))
    paths = [write(tmp_path / f"{index}.safetensors", tensors_of(10 * seed + index)) for index in range(3)]
    with SafetensorsStreamer() as plain:
        monkeypatch.setenv("RUNAI_STREAMER_PINNED", "0")
        plain.stream_files(paths, dtype=dtype)
        expected = [raw(tensor) for _, tensor in plain.get_tensors()]
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", chosen.choice(["auto", "1"]))
    copies, arrived, kept = [], {}, {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, dtype=dtype)
        for index, (_, tensor) in enumerate(streamer.get_tensors()):
            copies.append((index, Copy(memory, tensor)))
            if chosen.random() < 0.2:
                kept[index] = tensor
            del tensor
            while len(copies) > chosen.randint(0, 200):
                done, copy = copies.pop(chosen.randrange(len(copies)))
                arrived[done] = copy.finish()
    arrived |= {index: copy.finish() for index, copy in copies}
    assert [arrived[index] for index in range(len(expected))] == expected
    assert {index: raw(tensor) for index, tensor in kept.items()} == {index: expected[index] for index in kept}
    assert memory.given > 1
    kept.clear()


def test_a_caller_who_drops_tensors_has_a_few_blocks_go_round(
    memory: PinnedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(8 * MIB))
    tensors = {f"t{index}": stored("U8", (MIB,), index) for index in range(40)}
    path = write(tmp_path / "model.safetensors", tensors)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        for name, tensor in streamer.get_tensors():
            assert memory.holds(tensor)
            assert raw(tensor) == tensors[name].data
            del tensor
    join_ours()
    assert memory.locked <= 9 * MIB


def test_parts_and_casts_and_ranges_are_loaded_so_too(memory: PinnedMemory, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"w": stored("BF16", (64, 32)), "b": stored("BF16", (64,), 1)})
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, select={"w": (0, 8, 24)}, dtype=torch.float32)
        ((_, part), _) = streamer.get_tensors()
    assert memory.holds(part)
    assert part.dtype == torch.float32
    with FileStreamer() as ranges:
        ranges.stream_files([FileChunks(0, str(path), [3], [40])])
        ((_, _, chunk),) = ranges.get_chunks()
    assert memory.holds(chunk)
    assert bytes(chunk.numpy().tobytes()) == path.read_bytes()[3:43]
    del part, chunk


@pytest.mark.parametrize("end", ["abandoned", "closed", "dropped", "raised"])
def test_a_load_that_ends_early_gives_all_blocks_back(
    memory: PinnedMemory, checkpoint: Checkpoint, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "3000000")
    path, tensors = checkpoint
    streamer = SafetensorsStreamer()
    streamer.stream_file(path)
    iterator = streamer.get_tensors()
    kept = [next(iterator) for _ in range(5)]
    copies = [(name, Copy(memory, tensor)) for name, tensor in kept]
    if end == "closed":
        streamer.close()
        with pytest.raises(StreamerError):
            next(iterator)
    elif end == "raised":
        with pytest.raises(ZeroDivisionError), streamer:
            raise ZeroDivisionError
        del iterator  # which has the next few tensors
    elif end == "abandoned":
        del iterator
        streamer.close()
    else:
        with warnings.catch_warnings(action="ignore"):  # of a streamer that nobody closed
            del iterator, streamer
    join_ours()
    gc.collect()  # what only stops is collected later
    assert [raw(tensor) == tensors[name].data for name, tensor in kept] == [True] * 5
    del kept
    assert memory.in_use == 0
    assert all(copy.finish() == tensors[name].data for name, copy in copies)


def test_a_read_that_fails_gives_all_blocks_back(
    memory: PinnedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "cut", {f"t{index}": stored("U8", (1_000_000,), index) for index in range(20)})
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "3000000")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        tensors = streamer.get_tensors()
        next(tensors)
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(ReadError):
            deque(tensors, maxlen=0)  # which keeps none
    join_ours()
    assert memory.in_use == 0


def test_a_load_in_inference_mode_gives_tensors_that_can_be_trained(
    memory: PinnedMemory, checkpoint: Checkpoint
) -> None:
    with torch.inference_mode(), torch.device("meta"), SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint[0])
        loaded = dict(streamer.get_tensors())
    assert {raw(tensor) == checkpoint[1][name].data for name, tensor in loaded.items()} == {True}
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in loaded.values())
    loaded.clear()


def test_torch_that_gives_no_more_fails_the_load_where_locking_is_required(
    memory: PinnedMemory, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "3000000")
    memory.refuse_after = 3
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint[0])
        with pytest.raises(OutOfMemoryError, match="page-locked"):
            for _ in streamer.get_tensors():
                pass
    join_ours()


def test_never_takes_none_where_cuda_is_initialised(
    memory: PinnedMemory, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "0")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint[0])
        assert len(dict(streamer.get_tensors())) == len(checkpoint[1])
    assert memory.given == 0


def test_by_default_nothing_is_asked_of_torch_where_cuda_is_not_initialised(checkpoint: Checkpoint) -> None:
    with pinned_memory(initialized=False) as memory, SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint[0])
        assert len(dict(streamer.get_tensors())) == len(checkpoint[1])
    assert memory.given == 0


def test_required_where_cuda_is_not_initialised_is_an_error_of_the_call(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_PINNED", "1")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with SafetensorsStreamer() as streamer:
        with pytest.raises(PinnedUnavailableError, match="RUNAI_STREAMER_PINNED=1"):
            streamer.stream_file(checkpoint[0])
        monkeypatch.setenv("RUNAI_STREAMER_PINNED", "auto")
        streamer.stream_file(checkpoint[0])
        assert len(dict(streamer.get_tensors())) == len(checkpoint[1])


_PLAIN = """
import sys
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    for _ in streamer.get_tensors():
        pass
import torch
print(torch.cuda.is_initialized(), "runai_model_streamer.pipeline.memory.pinned" in sys.modules)
"""


def test_a_process_that_does_not_use_cuda_pays_nothing(checkpoint: Checkpoint) -> None:
    command = [sys.executable, "-c", _PLAIN, str(checkpoint[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_log_says_once_how_to_load_onto_the_gpu(
    memory: PinnedMemory, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    streamer_module._tell_of_the_gpu.cache_clear()  # noqa: SLF001
    caplog.set_level("INFO")
    for _ in range(2):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(checkpoint[0])
    assert caplog.text.count("""--model-loader-extra-config '{"distributed": true}'""") == 1


def test_it_says_nothing_of_a_gpu_where_cuda_is_not_in_use(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    streamer_module._tell_of_the_gpu.cache_clear()  # noqa: SLF001
    caplog.set_level("INFO")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(checkpoint[0])
    assert "GPU" not in caplog.text
