"""The CUDA landing through the real `cuda.bindings.driver`, and numba-cuda's launches, on the emulated driver, in
processes of their own."""

import importlib
import random

import pytest
import torch

from runai_model_streamer.pipeline.cuda.cast import device_cast
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from tests.casts import expected, finite
from tests.checkpoints import Stored, raw, stored
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs
from tests.pipeline.cuda.world import World

PAGE = 4096


def _random_file(rng: random.Random) -> dict[str, Stored]:
    dtypes = ["U8", "BF16", "F32", "I64", "F8_E4M3"]
    sizes = [rng.choice([0, 1, 7, 300, 5000, 40_000]) for _ in range(rng.randrange(12))]
    return {f"t{n}": stored(rng.choice(dtypes), (size,), n) for n, size in enumerate(sizes)}


@needs("cuda.bindings")
@emulated()
def test_random_loads_land_right_and_leave_nothing(emulator: Emulator) -> None:
    api = importlib.import_module("cuda.bindings.driver")
    for seed in range(60):
        rng = random.Random(seed)
        emulator.reset()
        world = World(emulator, api)
        file = _random_file(rng)
        load = world.load(
            [file],
            limit=rng.choice([None, 0, 2 * PAGE, 9 * PAGE]),
            chunk=PAGE * rng.randint(1, 4),
            concurrency=rng.randint(1, 6),
            group_bytes=PAGE * rng.choice([1, 8, 64]),
            seed=seed,
        )
        kept = []
        for name, tensor in load.tensors():
            world.work_on(name, tensor)
            if rng.random() < 0.3:
                kept.append((name, tensor))
            world.using = rng.choice([world.stream, world.other])
            del tensor
        assert world.results() == [(name, each.data) for name, each in file.items()]
        assert all(raw(tensor) == file[name].data for name, tensor in kept)
        kept.clear()
        assert world.close() == []


@needs("cuda.bindings", "numba_cuda")
@pytest.mark.filterwarnings("default")  # what numba-cuda deprecates of its own
@emulated(modes=["lazy", "random"], seconds=120)
def test_a_load_is_cast_by_launches_of_numba_on_the_copy_stream(emulator: Emulator) -> None:
    api = importlib.import_module("cuda.bindings.driver")
    driver = CudaDriver(0, api)
    cast = device_cast(driver, "BF16", ["F32", "F16", "F8_E4M3"])
    driver.close()
    assert cast is not None
    dtypes = ["F32", "U8", "F16", "F8_E4M3", "BF16"]
    file = {
        f"t{n}": (stored if dtypes[n % 5] == "U8" else finite)(dtypes[n % 5], (size,), n)
        for n, size in enumerate([3, 9000, 1, 7777, 300, 5000, 0, 20_001, 40_000, 17] * 2)
    }
    for threads in (1, 6):
        world = World(emulator, api)  # now: numba keeps the context, and what it has compiled, for good
        load = world.load([file], chunk=2 * PAGE, concurrency=threads, group_bytes=8 * PAGE, cast=cast)
        for number, (name, tensor) in enumerate(load.tensors()):
            world.work_on(name, tensor)
            world.using = world.other if number % 3 else world.stream
            del tensor
        assert world.results() == [(name, raw(expected(each, torch.bfloat16))) for name, each in file.items()]
        assert world.close() == []
    assert emulator.calls().count("cuLaunchKernelEx") == 2 * sum(
        each.dtype not in ("U8", "BF16") and len(each.data) > 0 for each in file.values()
    )
