import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    MissingDependencyError,
    ReadError,
    RunaiStreamerMemoryLimitException,
    StateError,
)
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.landing.casting import cast_in_host_memory
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.memory.scratch import ScratchPool
from runai_model_streamer.pipeline.plan.casts import PIECE, Casting, as_cast, cast_layout, casting_of, plan_cast
from runai_model_streamer.pipeline.plan.groups import PlannedFile, plan_groups
from runai_model_streamer.ranges import PAGE
from tests.casts import FLOATS, OTHERS, TARGETS, expected, finite
from tests.checkpoints import PATIENCE, GatedSource, Stored, encode, raw, stored, write
from tests.sources import MemorySource

pytest.importorskip("numba", reason="numba is not installed")


def planned(sources: Iterable[Source], chunk: int) -> list[PlannedFile]:
    return [
        PlannedFile(source.size, source.kind, source.alignment, chunk, read_header(source).tensors)
        for source in sources
    ]


def casting(files: Sequence[PlannedFile], target: str) -> Casting:
    found = casting_of(files, target)
    assert found is not None
    return found


def casting_load(
    sources: Sequence[Source], target: str, *, limit: int | None = None, chunk: int = 1 << 20, readers: int = 4
) -> Load:
    files = planned(sources, chunk)
    plan = plan_cast(files, casting(files, target), limit, readers)
    storage = Storage(LoadConfig(), None, shared=False)
    load = Load(storage, sources, cast_in_host_memory(files, plan), readers)
    load.start()
    return load


def check(made: Iterable[tuple[str, torch.Tensor]], tensors: dict[str, Stored], target: torch.dtype) -> None:
    names = []
    for name, tensor in made:
        wanted = expected(tensors[name], target)
        assert (tensor.dtype, tensor.shape) == (wanted.dtype, wanted.shape)
        assert raw(tensor) == raw(wanted), name
        assert tensor.data_ptr() % tensor.element_size() == 0
        names.append(name)
    assert names == list(tensors)


@pytest.mark.parametrize("seed", range(60))
def test_random_checkpoints_come_as_torch_would_cast_them(seed: int) -> None:
    """Elements cut by reads at any byte, tensors of all dtypes between each other, empty ones, odd starts."""
    chooser = random.Random(seed)
    target = chooser.choice(list(TARGETS))
    tensors: dict[str, Stored] = {}
    for index in range(chooser.randint(1, 30)):
        dtype = chooser.choice([*FLOATS, *FLOATS, *OTHERS])
        shape = [chooser.choice([0, 1, 2, 3, 7, 50]) for _ in range(chooser.randint(0, 3))]
        make = finite if dtype in FLOATS else stored
        tensors[f"t{index}"] = make(dtype, shape, seed + index)
    tensors["cast"] = finite("F16" if target == "BF16" else "BF16", [chooser.randint(1, 3000)], seed)
    start = chooser.choice([None, 4001, 4002, 4003, 2**13 - 1])
    source = MemorySource("m", encode(tensors, data_start=start), kind=chooser.choice(list(SourceKind)))
    chunk = chooser.choice([1, 2, 3, 5, 64, 1000, 1 << 20])
    check(casting_load([source], target, chunk=chunk).tensors(), tensors, TARGETS[target])


@pytest.mark.parametrize("start", [None, 4001, 4002])
def test_large_reads_are_cast_in_pieces(start: int | None) -> None:
    tensors = {"a": finite("BF16", [PIECE + 3]), "b": finite("BF16", [1]), "c": stored("U8", [3 * PIECE])}
    source = MemorySource("m", encode(tensors, data_start=start), alignment=PAGE)
    check(casting_load([source], "F32", chunk=4 * PIECE).tensors(), tensors, torch.float32)
    assert max(length for _, length in source.reads) == PIECE


def test_an_object_is_read_a_request_at_a_time() -> None:
    tensors = {"a": finite("BF16", [3 * PIECE])}
    source = MemorySource("m", encode(tensors), kind=SourceKind.OBJECT)
    check(casting_load([source], "F32", chunk=8 * PIECE).tensors(), tensors, torch.float32)
    assert [length for _, length in source.reads if length > PIECE] == [6 * PIECE]


def test_a_group_with_nothing_to_cast_is_read_in_place() -> None:
    tensors = {"large": stored("I64", [20 << 17]), "cast": finite("BF16", [8])}
    source = MemorySource("m", encode(tensors), alignment=PAGE)
    check(casting_load([source], "F16", chunk=4 * PIECE).tensors(), tensors, torch.float16)
    assert max(length for _, length in source.reads) > PIECE


def test_several_files_of_both_kinds() -> None:
    tensors = [{f"{index}": finite(dtype, [5000 + index])} for index, dtype in enumerate(["F32", "BF16", "F8_E4M3"])]
    kinds = [SourceKind.FILE, SourceKind.OBJECT, SourceKind.FILE]
    sources = [MemorySource("m", encode(file), kind=kind) for file, kind in zip(tensors, kinds, strict=True)]
    everything = {name: tensor for file in tensors for name, tensor in file.items()}
    check(casting_load(sources, "F16", chunk=1000).tensors(), everything, torch.float16)


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_limit_holds_what_tensors_become_and_what_they_are_cast_from(target: str) -> None:
    tensors = {
        f"t{index}": finite(dtype, [size])
        for index, (dtype, size) in enumerate(
            [("F8_E4M3", 40_000), ("BF16", 100_000), ("F16", 3), ("F32", 60_000), ("U8", 0)] * 3
        )
        if dtype in FLOATS
    }
    data = encode(tensors)
    files = planned([MemorySource("m", data)], 7000)
    largest = max(as_cast(tensor, target).nbytes for tensor in files[0].tensors)
    for limit in (largest + PIECE, 2 * largest + PIECE, 4 * PIECE, 16 * PIECE):
        plan = plan_cast(files, casting(files, target), limit, 4)
        assert plan.slab_limit is not None
        assert plan.slab_limit >= largest
        assert plan.slab_limit + plan.scratch_bytes * plan.scratch_count == limit
        for group in plan_groups(files, plan.group_limit):
            layout = cast_layout(group, target)
            assert (group if layout is None else layout.output).payload <= plan.slab_limit
        source = MemorySource("m", data)
        check(casting_load([source], target, limit=limit, chunk=7000).tensors(), tensors, TARGETS[target])


def test_a_layout_gives_neighbours_of_one_dtype_one_run() -> None:
    tensors = {
        "a": finite("BF16", [3]),
        "b": finite("BF16", [5]),
        "e": finite("BF16", [0]),
        "c": finite("BF16", [2]),
        "d": stored("U8", [3]),
        "f": finite("F32", [2]),
        "g": finite("F16", [1]),
    }
    (group,) = plan_groups(planned([MemorySource("m", encode(tensors, data_start=4096))], 1 << 20))
    layout = cast_layout(group, "F32")
    assert layout is not None
    start = group.parts[0].position
    assert [(run.start - start, run.end - start, run.position, run.source, run.target) for run in layout.runs] == [
        (0, 20, 0, "BF16", "F32"),
        (20, 23, 64, "U8", "U8"),
        (23, 31, 128, "F32", "F32"),
        (31, 33, 192, "F16", "F32"),
    ]
    (part,) = layout.output.parts
    assert [(tensor.name, tensor.dtype, tensor.start, tensor.end) for tensor in part.tensors] == [
        ("a", "F32", 0, 12), ("b", "F32", 12, 32), ("e", "F32", 0, 0), ("c", "F32", 32, 40),
        ("d", "U8", 64, 67), ("f", "F32", 128, 136), ("g", "F32", 192, 196),
    ]  # fmt: skip
    assert layout.output.payload == 40 + 3 + 8 + 4
    assert layout.output.footprint == PAGE


def test_a_group_without_anything_to_cast_has_no_layout() -> None:
    tensors = {"a": finite("F32", [3]), "b": stored("I64", [5])}
    (group,) = plan_groups(planned([MemorySource("m", encode(tensors))], 1 << 20))
    assert cast_layout(group, "F32") is None


def test_an_error_names_the_tensor_as_ever() -> None:
    tensors = {"a": finite("BF16", [1000]), "b": finite("BF16", [1000])}
    data = encode(tensors)
    load = casting_load([MemorySource("m", data[:-1], size=len(data))], "F32", chunk=500)
    with pytest.raises(ReadError, match="tensor 'b'"):
        list(load.tensors())


def test_a_closed_load_ends_readers_that_wait_for_scratch_memory() -> None:
    data = encode({"a": finite("BF16", [100_000])})
    source = GatedSource("m", data, gated=len(data) - 190_000)
    load = casting_load([source], "F32", limit=400_000 + PIECE, chunk=4096)  # scratch memory for one of four readers
    assert source.arrived.acquire(timeout=PATIENCE)
    load.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("runai-")]


def test_scratch_memory_is_lent_to_one_at_a_time_and_used_again() -> None:
    lifecycle = Lifecycle()
    pool = ScratchPool(PAGE, 1, lifecycle)
    stopped = threading.Event()

    def borrow() -> None:
        with contextlib.suppress(Stopped), pool.lend():
            return
        stopped.set()

    with pool.lend() as piece:
        piece[:2] = b"ab"
        waiting = threading.Thread(target=borrow)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        lifecycle.close()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
    assert stopped.is_set()
    assert len(piece) == PAGE


def test_readers_share_fewer_pieces_of_scratch_memory() -> None:
    tensors = {"a": finite("BF16", [300_000])}
    source = MemorySource("m", encode(tensors, data_start=4001))
    check(casting_load([source], "F32", limit=1_200_000 + PIECE, chunk=4001).tensors(), tensors, torch.float32)


# Through the front door.


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, Stored]]:
    tensors = {"w": finite("BF16", [70, 30]), "ids": stored("I64", [7]), "wide": finite("F32", [1001])}
    return write(tmp_path / "m.safetensors", tensors), tensors


@pytest.mark.parametrize("target", list(TARGETS))
def test_stream_files_casts(checkpoint: tuple[Path, dict[str, Stored]], target: str) -> None:
    path, tensors = checkpoint
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], dtype=TARGETS[target])
        check(streamer.get_tensors(), tensors, TARGETS[target])
        # What the file holds.
        assert [tensor.dtype for tensor in streamer.files_to_tensors_metadata[0]] == ["BF16", "I64", "F32"]
        assert streamer.total_size == sum(len(tensor.data) for tensor in tensors.values())


def test_stream_file_casts_and_takes_only_what_is_asked_for(checkpoint: tuple[Path, dict[str, Stored]]) -> None:
    path, tensors = checkpoint
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, tensor_names=["w"], dtype=torch.float16)
        check(streamer.get_tensors(), {"w": tensors["w"]}, torch.float16)


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("float16", ArgumentTypeError, r"dtype is torch.bfloat16, torch.float16 or torch.float32.* not 'float16'"),
        (torch.int8, ArgumentError, r"dtype=torch.int8 cannot be cast to; use torch.bfloat16"),
        (torch.float64, ArgumentError, r"dtype=torch.float64 cannot be cast to"),
        (torch.float8_e4m3fn, ArgumentError, r"dtype=torch.float8_e4m3fn cannot be cast to"),
    ],
)
def test_a_dtype_that_cannot_be_had_says_what_can(
    checkpoint: tuple[Path, dict[str, Stored]], dtype: torch.dtype, error: type[Exception], message: str
) -> None:
    with SafetensorsStreamer() as streamer:
        with pytest.raises(error, match=message):
            streamer.stream_files([checkpoint[0]], dtype=dtype)
        with pytest.raises(StateError):
            streamer.get_tensors()


def test_a_limit_too_small_says_what_is_needed(
    checkpoint: tuple[Path, dict[str, Stored]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = checkpoint
    needed = 70 * 30 * 4 + PIECE
    with SafetensorsStreamer() as streamer:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(needed - 1))
        with pytest.raises(RunaiStreamerMemoryLimitException, match=rf"'w' has 8400 bytes as F32.*{needed} or more"):
            streamer.stream_file(path, dtype=torch.float32)
        for limit in (needed, 0):
            monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(limit))
            streamer.stream_file(path, dtype=torch.float32)
            check(streamer.get_tensors(), tensors, torch.float32)


def test_numba_is_imported_only_to_cast(checkpoint: tuple[Path, dict[str, Stored]]) -> None:
    script = (
        "import sys, torch\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "with SafetensorsStreamer() as streamer:\n"
        "    for dtype in (None, torch.float16):\n"
        f"        streamer.stream_file({str(checkpoint[0])!r}, dtype=dtype)\n"
        "        assert len(list(streamer.get_tensors())) == 3\n"
        "        print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"


def test_without_numba_the_error_names_the_extra(
    checkpoint: tuple[Path, dict[str, Stored]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "runai_model_streamer.kernels.host", raising=False)
    # Once imported, the module would be found without its package.
    monkeypatch.delattr("runai_model_streamer.kernels.host", raising=False)
    with SafetensorsStreamer() as streamer:
        with pytest.raises(MissingDependencyError, match=r"BF16 to F32.*pip install -e '.\[cast\]'"):
            streamer.stream_file(checkpoint[0], dtype=torch.float32)
        # Nothing to cast: nothing is needed.
        streamer.stream_file(checkpoint[0], tensor_names=["ids", "wide"], dtype=torch.float32)
        assert [name for name, _ in streamer.get_tensors()] == ["ids", "wide"]
