"""Casting on the device from the public face on, and where it cannot be done there; see test_cuda for its order."""

import ctypes
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from runai_model_streamer.errors import CudaError, GdsUnavailableError
from runai_model_streamer.pipeline.cuda.cast import DeviceCast, Kernel, device_cast
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Cast
from tests.casts import expected, finite
from tests.checkpoints import Stored, raw, stored, write
from tests.kernels import oracle, samples
from tests.pipeline.cuda.test_destination import Moves, world
from tests.pipeline.cuda.world import GPU, World

__all__ = ["world"]  # a fixture


@pytest.fixture
def tensors() -> dict[str, Stored]:
    return {
        "wide": finite("F32", (1000, 1001)),
        "empty": finite("F32", (0, 3)),
        "ids": stored("I64", (7,)),
        "odd": stored("U8", (3,)),
        "half": finite("F16", (5, 7, 11)),
        "kept": finite("BF16", (100_001,)),
        "eight": finite("F8_E4M3", (33,)),
    }


@pytest.fixture
def no_numba_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    monkeypatch.delitem(sys.modules, "runai_model_streamer.kernels.device", raising=False)
    # Once imported, the module would be found without its package.
    monkeypatch.delattr("runai_model_streamer.kernels.device", raising=False)


def test_tensors_are_cast_on_the_device(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def compiler(driver: CudaDriver, target: str, sources: Iterable[str]) -> dict[str, Kernel]:
        with driver.current():
            asked.append(sorted(sources))
        return world.kernels(target, sources)

    path = write(tmp_path / "m", tensors)
    found = {}
    with world.streamer(compiler=compiler) as opened:
        opened.stream_file(path, device="cuda:0", dtype=torch.bfloat16)
        for name, tensor in opened.get_tensors():
            found[name] = (tensor.dtype, tensor.shape)
            world.work_on(name, tensor)
            del tensor
    wanted = {name: expected(each, torch.bfloat16) for name, each in tensors.items()}
    assert found == {name: (tensor.dtype, tensor.shape) for name, tensor in wanted.items()}
    assert world.results() == [(name, raw(tensor)) for name, tensor in wanted.items()]
    assert asked == [["F16", "F32", "F8_E4M3"]]
    assert world.faulty.calls["cuLaunchKernelEx"] == 3
    assert world.close() == []


def test_a_ranks_parts_are_cut_from_what_was_cast(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    found = {}
    with world.streamer(compiler=lambda _, target, sources: world.kernels(target, sources)) as opened:
        opened.stream_file(
            write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16, select={"wide": (0, 5, 600)}
        )
        for name, tensor in opened.get_tensors():
            world.call("cuStreamSynchronize", world.using)
            found[name] = raw(tensor)
            del tensor
    wanted = {name: expected(each, torch.bfloat16) for name, each in tensors.items()}
    wanted["wide"] = wanted["wide"][5:600]
    assert found == {name: raw(tensor) for name, tensor in wanted.items()}
    assert world.close() == []


def test_nothing_is_compiled_where_nothing_is_to_be_cast(
    world: World, tensors: dict[str, Stored], tmp_path: Path
) -> None:
    asked: list[str] = []

    def compiler(_: CudaDriver, target: str, __: Iterable[str]) -> dict[str, Kernel]:
        asked.append(target)
        return {}

    with world.streamer(compiler=compiler) as opened:
        opened.stream_file(
            write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16, tensor_names=["ids", "kept"]
        )
        kept = dict(opened.get_tensors())
        assert {name: raw(tensor) for name, tensor in kept.items()} == {
            name: tensors[name].data for name in ("ids", "kept")
        }
    assert asked == []
    kept.clear()
    assert world.close() == []


@pytest.mark.usefixtures("no_numba_cuda")
def test_without_numba_cuda_tensors_are_cast_on_the_host_and_a_line_says_so(
    world: World,
    tensors: dict[str, Stored],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    wanted = {name: raw(expected(each, torch.bfloat16)) for name, each in tensors.items()}
    with world.streamer() as opened, caplog.at_level(logging.INFO), Moves() as moves:
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16)
        assert {name: raw(tensor) for name, tensor in opened.get_tensors()} == wanted
    assert moves.devices == [GPU] * len(tensors)
    (line,) = [record.message for record in caplog.records if "cast on the host" in record.message]
    assert "cuda13" in line
    assert world.close() == []


@pytest.mark.usefixtures("no_numba_cuda")
def test_gpudirect_that_is_asked_for_is_an_error_where_the_device_cannot_cast(
    world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    with world.streamer() as opened, pytest.raises(GdsUnavailableError, match="leave out dtype="):
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16)
    assert world.close() == []


def test_a_gpu_that_kernels_cannot_be_compiled_for_is_told_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> dict[str, Kernel]:
        raise RuntimeError("no such architecture: sm_42")

    driver = CudaDriver(0, world.api)
    assert device_cast(driver, "F16", ["F32"], refuse) is None
    driver.close()
    assert "sm_42" in caplog.text
    assert world.close() == []


def test_an_error_of_a_launch_names_the_dtypes() -> None:
    def refuse(*_: int) -> None:
        raise ValueError("no")

    with pytest.raises(CudaError, match="a cast from F32 to F16 failed on the GPU: no"):
        DeviceCast("F16", {"F32": refuse}).queue([Cast("F32", 0, 0, 1)], 0)


@pytest.mark.parametrize(("source", "target"), oracle.PAIRS)
def test_what_the_emulator_does_in_place_of_a_kernel_is_what_the_kernel_is_to_do(
    world: World, source: str, target: str
) -> None:
    data = samples.all_values(source) if source != "F32" else samples.edges().view(np.uint8)
    count = len(data) // oracle.WIDTHS[source]
    wanted = oracle.cast(data, source, target)
    landed, made = (int(world.call("cuMemAlloc", size)) for size in (len(data), len(wanted)))
    ctypes.memmove(landed, data.tobytes(), len(data))
    assert world.emulator.launch_cast((source, target), landed, made, count, world.stream) == 0
    world.call("cuStreamSynchronize", world.stream)
    found = np.frombuffer(ctypes.string_at(made, len(wanted)), np.uint8)
    width = oracle.WIDTHS[target]
    numbers = ~np.repeat(
        torch.from_numpy(wanted.copy())
        .view({"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[target])
        .isnan()
        .numpy(),
        width,
    )
    assert (found[numbers] == wanted[numbers]).all()
    world.call("cuMemFree", landed)
    world.call("cuMemFree", made)
    assert world.close() == []
