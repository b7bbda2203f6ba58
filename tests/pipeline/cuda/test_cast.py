"""Casting on the device from the public face on; see test_landing for its order."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from runai_model_streamer.pipeline.plan.casts import Casting
from tests.casts import expected, finite
from tests.checkpoints import Stored, raw, stored, write
from tests.kernels import oracle, samples
from tests.pipeline.cuda.test_destination import world
from tests.pipeline.cuda.world import World

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


def test_tensors_are_cast_on_the_device(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors)
    found = {}
    with world.streamer() as opened:
        opened.stream_file(path, device="cuda:0", dtype=torch.bfloat16)
        for name, tensor in opened.get_tensors():
            found[name] = (tensor.dtype, tensor.shape)
            world.work_on(name, tensor)
            del tensor
    wanted = {name: expected(each, torch.bfloat16) for name, each in tensors.items()}
    assert found == {name: (tensor.dtype, tensor.shape) for name, tensor in wanted.items()}
    assert world.results() == [(name, raw(tensor)) for name, tensor in wanted.items()]
    assert world.faulty.calls["cuLaunchKernel"] == 3
    assert world.close() == []


def test_what_is_cast_is_prepared_before_the_first_byte_is_read(
    world: World, tensors: dict[str, Stored], tmp_path: Path
) -> None:
    with world.streamer() as opened:
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16)
        assert world.memory.prepared == [Casting("BF16", frozenset({"F16", "F32", "F8_E4M3"}))]
    assert world.close() == []


def test_a_ranks_parts_are_cut_from_what_was_cast(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    found = {}
    with world.streamer() as opened:
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


def test_nothing_is_prepared_where_nothing_is_to_be_cast(
    world: World, tensors: dict[str, Stored], tmp_path: Path
) -> None:
    with world.streamer() as opened:
        opened.stream_file(
            write(tmp_path / "m", tensors), device="cuda:0", dtype=torch.bfloat16, tensor_names=["ids", "kept"]
        )
        kept = dict(opened.get_tensors())
        assert {name: raw(tensor) for name, tensor in kept.items()} == {
            name: tensors[name].data for name in ("ids", "kept")
        }
    assert world.memory.prepared == []
    kept.clear()
    assert world.close() == []


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
