"""From the public face to the device: what `device="cuda:0"` does, with and without CUDA's packages."""

import ctypes
import logging
import shutil
from pathlib import Path

import pytest
import torch

from runai_model_streamer import RunaiStreamerMemoryLimitException, SafetensorsStreamer, streamer
from runai_model_streamer.errors import GdsUnavailableError, MissingDependencyError
from runai_model_streamer.pipeline import cuda_driver, cuda_load
from tests.checkpoints import Stored, numbered, raw, write
from tests.cuda_emulator import Emulator, NoCompilerError, build
from tests.pipeline.cuda_world import CtypesApi, World

GPU = torch.device("cuda", 0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A machine with a GPU, of whose tensors torch says that they are on the CPU."""
    try:
        library = shutil.copy(build(tmp_path, "emulator.so") / "emulator.so", tmp_path / "own.so")
    except NoCompilerError as error:
        pytest.skip(str(error))
    emulator = Emulator(ctypes.CDLL(str(library)))
    world = World(emulator, CtypesApi(emulator))
    monkeypatch.setattr(streamer, "resolve_device", lambda _: GPU)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_load, "driver_api", lambda: world.faulty)
    monkeypatch.setattr(cuda_load, "TorchMemory", lambda _: world.memory)
    return world


@pytest.fixture
def tensors() -> dict[str, Stored]:
    return numbered([3_000_000, 0, 5, 70_000, 4_000_000])


def test_tensors_are_staged_and_copied(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors)
    with SafetensorsStreamer() as opened:
        opened.stream_file(path, device="cuda:0")
        for name, tensor in opened.get_tensors():
            world.work_on(name, tensor)
            del tensor
    assert world.results() == [(name, each.data) for name, each in tensors.items()]
    assert world.faulty.calls["cuMemcpyHtoDAsync"] >= 4
    assert world.close() == []


@pytest.mark.parametrize("limit", ["0", "8192", "1000000"])
def test_a_limit_below_the_largest_tensor_is_enough(
    limit: str, world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    path = write(tmp_path / "m", tensors)
    with SafetensorsStreamer() as opened:
        opened.stream_file(path, device="cuda:0")
        kept = list(opened.get_tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in tensors.values()]
    kept.clear()
    assert world.emulator.live("pinned_bytes_peak") <= (int(limit) or 8 << 20)  # two reads
    assert world.close() == []


def test_a_limit_of_less_than_two_pages_is_an_error(
    world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "8191")
    with SafetensorsStreamer() as opened, pytest.raises(RunaiStreamerMemoryLimitException, match="8192 or more"):
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0")
    assert world.close() == []


def test_without_cudas_packages_tensors_are_moved_one_by_one_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise MissingDependencyError("pip install 'runai-model-streamer-cuda[cuda13]'")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_load, "driver_api", missing)
    monkeypatch.setattr(streamer, "resolve_device", lambda _: GPU)
    moved: list[torch.device] = []

    def to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(device)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    with SafetensorsStreamer() as opened, caplog.at_level(logging.INFO):
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")
        assert len(list(opened.get_tensors())) == 2
    assert moved == [GPU, GPU]
    assert sum("cuda13" in record.message for record in caplog.records) == 1


def test_gpudirect_that_is_asked_for_is_an_error_without_cudas_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("pip install 'runai-model-streamer-cuda[cuda13]'")

    monkeypatch.setattr(cuda_load, "driver_api", missing)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(streamer, "resolve_device", lambda _: GPU)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    with SafetensorsStreamer() as opened, pytest.raises(GdsUnavailableError, match=r"RUNAI_STREAMER_GDS=1: .*cuda13"):
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")


def test_missing_packages_are_named_with_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(MissingDependencyError, match=r"\[cuda13\].*\[cuda12\]"):
        cuda_driver.driver_api()
