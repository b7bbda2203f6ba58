"""The CUDA landing on the emulated driver, in this process: loads land right, and nothing is used by two at once."""

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runai_model_streamer.io.ranges import PAGE
from tests.checkpoints import Stored, join_ours, numbered, our_threads, raw, stored
from tests.cuda_emulator import MODES, Emulator, Mode, NoCompilerError, build
from tests.pipeline.cuda_world import CtypesApi, World


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    join_ours()
    assert our_threads() == []


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("emulator"), "emulator.so") / "emulator.so"
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def emulator(built: Path, tmp_path: Path) -> Emulator:
    """Lazy, and new: the loader knows a copy of the file as another library."""
    return Emulator(ctypes.CDLL(str(shutil.copy(built, tmp_path / "emulator.so"))))


def world_of(emulator: Emulator) -> World:
    return World(emulator, CtypesApi(emulator))


class Case(NamedTuple):
    """A load, and how the caller goes about it."""

    files: list[dict[str, Stored]]
    alignment: int
    limit: int | None
    chunk: int
    concurrency: int
    group_bytes: int
    kept: int
    """Every so manyth tensor is kept; 0 for none."""
    streams: int
    """The caller goes to its other stream after so many tensors, and back after as many; 0 for never."""
    seed: int


_DTYPES = st.sampled_from(["U8", "BOOL", "BF16", "F32", "I64", "F8_E4M3", "C64"])
_SHAPES = st.one_of(
    st.lists(st.integers(0, 8), max_size=3),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=1),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    files = []
    for index in range(draw(st.integers(0, 3))):
        shapes = draw(st.lists(st.tuples(_DTYPES, _SHAPES), max_size=12))
        files.append({f"{index}.{n}": stored(dtype, shape, n) for n, (dtype, shape) in enumerate(shapes)})
    return Case(
        files,
        draw(st.sampled_from([1, PAGE])),
        draw(st.one_of(st.none(), st.just(0), st.integers(2 * PAGE, 20 * PAGE))),
        PAGE * draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from([PAGE, 8 * PAGE, 64 * PAGE])),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 4)),
        draw(st.integers(0, 1 << 20)),
    )


def problems(world: World, case: Case, taken: int | None = None) -> list[str]:
    """Load the case as its caller does, up to `taken` tensors; what went wrong."""
    load = world.load(
        case.files,
        limit=case.limit,
        chunk=case.chunk,
        concurrency=case.concurrency,
        group_bytes=case.group_bytes,
        alignment=case.alignment,
        seed=case.seed,
    )
    kept = []
    tensors = load.tensors()
    number = 0
    while number != taken:
        if case.streams and number % case.streams == 0:
            world.using = world.other if world.using == world.stream else world.stream
        name, tensor = next(tensors, (None, None))
        if name is None or tensor is None:
            break
        number += 1
        world.work_on(name, tensor)
        if case.kept and number % case.kept == 0:
            kept.append((name, tensor))
        del tensor
    del tensors
    load.close()
    wanted = [(name, each.data) for file in case.files for name, each in file.items()]
    wrong = []
    if world.results() != wanted[:taken]:
        wrong.append("the caller's kernels saw something else")
    by_name = dict(wanted)
    wrong += [f"{name} is something else" for name, tensor in kept if raw(tensor) != by_name[name]]
    return wrong


@pytest.mark.parametrize("mode", MODES)
def test_any_load_lands_right_and_leaves_nothing(mode: Mode, emulator: Emulator) -> None:
    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        emulator.reset()
        emulator.set_mode(mode, case.seed)
        world = world_of(emulator)
        try:
            wrong = problems(world, case)
        finally:
            left = world.close()
        assert wrong + left == []

    check()
