import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.config import MIB, LoadConfig
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    HeaderError,
    NotFoundError,
    RunaiStreamerMemoryLimitException,
    StreamerError,
    UnsupportedDtypeError,
)
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.prepare import FileReads, PreparedLoad, is_shared, make_load, prepare_load
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import Stored, encode, join_ours, numbered, our_threads, raw, stored, write
from tests.sources import MemorySource


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    join_ours()
    assert our_threads() == []
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def start(*paths: Path, names: Collection[str] | None = None, config: LoadConfig | None = None) -> PreparedLoad:
    prepared = prepare_load([str(path) for path in paths], config or LoadConfig(), None, names)
    prepared.load.start()
    return prepared


def streamed(prepared: PreparedLoad) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in prepared.load.tensors()}


@pytest.fixture
def two_files(tmp_path: Path) -> tuple[Path, Path]:
    """a0, a1 of 10 and 20 bytes, and b0, b1 of 30 and 40."""
    return write(tmp_path / "a", numbered([10, 20], "a")), write(tmp_path / "b", numbered([30, 40], "b"))


class CachedSource(MemorySource):
    """A file that is in the page cache."""

    def origin(self, offset: int, length: int) -> Origin:
        return Origin.PAGE_CACHE


@pytest.mark.parametrize(
    ("cpus", "limit", "reads"), [(1, -1, [20]), (2, -1, [10, 10]), (1, 40 * MIB, [4, 8, 8]), (1, 0, [4, 8, 8])]
)
def test_a_file_in_memory_is_copied_by_large_reads_where_cpus_are_few_and_memory_is_not_limited(
    cpus: int, limit: int, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    source = CachedSource("m", encode(numbered([20 * MIB])), alignment=PAGE)
    tensors = read_header(source).tensors
    source.reads.clear()
    config = LoadConfig(memory_limit=limit)
    load = make_load(Storage(config, None, shared=False), [FileReads("m", source, tensors)], config)
    load.start()
    assert [name for name, _ in load.tensors()] == ["t0"]
    lengths = [length for _, length in source.reads]
    # And the page that its first and its last bytes are on.
    assert [round(length / MIB) for length in sorted(lengths)] == reads


def test_a_load_is_not_running_when_it_is_returned(two_files: tuple[Path, Path]) -> None:
    prepared = prepare_load([str(path) for path in two_files], LoadConfig(), None, None)
    assert our_threads() == []
    prepared.load.start()
    assert list(streamed(prepared)) == ["a0", "a1", "b0", "b1"]


def test_a_load_that_was_never_started_leaves_nothing_open(two_files: tuple[Path, Path]) -> None:
    prepare_load([str(path) for path in two_files], LoadConfig(), None, None).load.close()


def test_metadata_lists_each_files_tensors_by_its_index(two_files: tuple[Path, Path]) -> None:
    prepared = start(*two_files)
    prepared.load.close()
    assert {index: [tensor.name for tensor in tensors] for index, tensors in prepared.metadata.items()} == {
        0: ["a0", "a1"],
        1: ["b0", "b1"],
    }


# Which tensors.


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, dict.fromkeys], ids=lambda kind: kind.__name__)
def test_names_choose_the_tensors_from_whichever_file(two_files: tuple[Path, Path], kind: type[list[str]]) -> None:
    prepared = start(*two_files, names=kind(["b0", "a1"]))
    assert [[tensor.name for tensor in tensors] for tensors in prepared.metadata.values()] == [["a1"], ["b0"]]
    assert prepared.load.total_bytes == 50
    assert list(streamed(prepared)) == ["a1", "b0"]


def test_a_file_that_no_name_is_in_is_left_out(two_files: tuple[Path, Path]) -> None:
    prepared = start(*two_files, names=["b1"])
    assert prepared.metadata[0] == []
    assert list(streamed(prepared)) == ["b1"]


def test_a_name_given_twice_is_one_name(two_files: tuple[Path, Path]) -> None:
    assert list(streamed(start(*two_files, names=["b1", "b1"]))) == ["b1"]


def test_unknown_names_are_listed(two_files: tuple[Path, Path]) -> None:
    with pytest.raises(ArgumentError, match=r"that are not in any of the 2 files: 'nope', 'other'$") as raised:
        start(*two_files, names=["other", "a0", "nope"])
    assert isinstance(raised.value, ValueError)


def test_an_unknown_name_is_told_with_the_only_file(two_files: tuple[Path, Path]) -> None:
    with pytest.raises(ArgumentError, match=f"that are not in {two_files[0]}: 'b1'$"):
        start(two_files[0], names=["a0", "b1"])


def test_very_many_unknown_names_are_counted(two_files: tuple[Path, Path]) -> None:
    with pytest.raises(ArgumentError, match=r"'x09' and 90 more$"):
        start(*two_files, names=[f"x{index:02}" for index in range(100)])


def test_names_that_are_in_two_files_are_listed_with_the_files(tmp_path: Path) -> None:
    first = write(tmp_path / "first", numbered([1, 2, 3]))
    second = write(tmp_path / "second", numbered([1, 2]))
    with pytest.raises(ArgumentError, match=f"'t0' in {first} and {second}; 't1' in {first} and {second}$"):
        start(first, second, names=["t0", "t1", "t2"])


def test_a_name_that_is_in_two_files_is_no_error_where_all_are_read(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, numbered([1])) for name in ("first", "second")]
    prepared = start(*paths)
    assert [name for name, _ in prepared.load.tensors()] == ["t0", "t0"]


@pytest.mark.parametrize("names", [[], (), set(), {}], ids=repr)
def test_no_names_at_all_is_an_error(two_files: tuple[Path, Path], names: Collection[str]) -> None:
    with pytest.raises(ArgumentError, match="tensor_names is empty"):
        start(*two_files, names=names)


@pytest.mark.parametrize(
    "names",
    ["a0", b"a0", 7, pytest.param(iter(["a0"]), id="iterator"), ["a0", 7], [b"a0"], [None]],
    ids=repr,
)
def test_names_of_another_type_are_an_error(two_files: tuple[Path, Path], names: Collection[str]) -> None:
    with pytest.raises(ArgumentTypeError, match="tensor_names") as raised:
        start(*two_files, names=names)
    assert isinstance(raised.value, TypeError)


def test_names_are_checked_before_a_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="tensor_names is empty"):
        start(tmp_path / "missing", names=[])


# Dtypes.


@pytest.fixture
def with_float6(tmp_path: Path) -> Path:
    """A file with one tensor of a dtype that torch has not."""
    return write(tmp_path / "m", {"fine": stored("F32", (2,)), "odd": stored("F6_E2M3", (4,))})


def test_a_dtype_that_torch_lacks_is_an_error_that_names_file_tensor_and_dtype(with_float6: Path) -> None:
    with pytest.raises(UnsupportedDtypeError, match=f"{with_float6}: tensor 'odd' has dtype F6_E2M3"):
        start(with_float6)


def test_a_tensor_of_that_dtype_may_be_left_out(with_float6: Path) -> None:
    assert list(streamed(start(with_float6, names=["fine"]))) == ["fine"]


# The limit.


def limited(limit: int) -> LoadConfig:
    return LoadConfig(memory_limit=limit)


def test_a_limit_below_the_largest_tensor_is_an_error_that_names_tensor_size_and_limit(
    two_files: tuple[Path, Path],
) -> None:
    with pytest.raises(
        RunaiStreamerMemoryLimitException,
        match=f"{two_files[1]}: tensor 'b1' has 40 bytes, more than RUNAI_STREAMER_MEMORY_LIMIT=39; set it to 40 ",
    ) as raised:
        start(*two_files, config=limited(39))
    assert isinstance(raised.value, MemoryError)


@pytest.mark.parametrize("limit", [-1, 0, 40, 41, 1 << 40])
def test_a_limit_of_the_largest_tensor_or_more_is_enough(two_files: tuple[Path, Path], limit: int) -> None:
    assert len(streamed(start(*two_files, config=limited(limit)))) == 4


@pytest.mark.parametrize(("setting", "limit"), [(-1, None), (0, 40), (40, 40), (1000, 1000)])
def test_the_setting_says_how_much_may_be_held(two_files: tuple[Path, Path], setting: int, limit: int | None) -> None:
    load = start(*two_files, config=limited(setting)).load
    load.close()
    assert load.tally.limit == limit


def test_a_tensor_that_is_not_wanted_may_be_larger_than_the_limit(two_files: tuple[Path, Path]) -> None:
    assert list(streamed(start(*two_files, names=["a0", "a1"], config=limited(20)))) == ["a0", "a1"]


@pytest.mark.parametrize("limit", [0, 1])
def test_any_limit_is_enough_for_empty_tensors(tmp_path: Path, limit: int) -> None:
    empty = {"t": Stored("F32", (0, 4), b"")}
    prepared = start(write(tmp_path / "m", empty), config=limited(limit))
    assert [(name, tuple(tensor.shape)) for name, tensor in prepared.load.tensors()] == [("t", (0, 4))]


@pytest.mark.parametrize("limit", [-1, 0, 1])
def test_any_limit_is_enough_for_no_tensors(tmp_path: Path, limit: int) -> None:
    assert streamed(start(write(tmp_path / "m", {}), config=limited(limit))) == {}
    assert streamed(start(config=limited(limit))) == {}


# What goes wrong leaves nothing open: the fixture looks.


def test_a_missing_file_behind_others_leaves_nothing_open(two_files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        start(*two_files, tmp_path / "missing")


def test_a_wrong_header_behind_others_leaves_nothing_open(two_files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x05\0\0\0\0\0\0\0{...}")
    with pytest.raises(HeaderError):
        start(*two_files, tmp_path / "bad")


def test_a_load_that_cannot_start_leaves_nothing_open(
    two_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    load = prepare_load([str(path) for path in two_files], LoadConfig(), None, None).load
    with pytest.raises(StreamerError, match="ulimit -u"):
        load.start()
    load.close()


# Whether others load the same files.


@pytest.mark.parametrize(
    ("processes", "ranks", "shared"), [(1, None, False), (4, None, True), (1, 1, False), (1, 8, True)]
)
def test_files_are_shared_when_the_launcher_or_a_process_group_says_so(
    processes: int, ranks: int | None, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ranks is not None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    assert is_shared(LoadConfig(local_processes=processes)) == shared
