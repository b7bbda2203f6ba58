"""The CUDA landing through the real `cuda.bindings.driver`, on the emulated driver, in processes of their own."""

import importlib
import random

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
