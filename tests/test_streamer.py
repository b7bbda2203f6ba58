"""The public face, as engines call it: local files, the environment's settings, errors and the end of a load."""

import gc
import inspect
import logging
import os
import re
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from runai_model_streamer import (
    RunaiStreamerMemoryLimitException,
    S3Credentials,
    SafetensorsStreamer,
    StreamerError,
)
from runai_model_streamer.device import Gpus
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    DeviceError,
    HeaderError,
    IsDirectoryError,
    NotFoundError,
    SourceChangedError,
    StateError,
    TruncatedError,
    UnsupportedError,
)
from runai_model_streamer.pipeline.parts import Parts
from tests.checkpoints import Stored, encode, join_ours, numbered, our_threads, raw, stored, write
from tests.streamers import streamer_of

LOGGER = "runai_model_streamer.streamer"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread and no file descriptor outlives a test."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    join_ours()
    assert our_threads() == []
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """t0, t1 and t2 of 10, 20 and 30 bytes."""
    return write(tmp_path / "model.safetensors", numbered([10, 20, 30]))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six tensors of 3 MB, each of which is read only when the one before has been dropped or handed out."""
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    return write(tmp_path / "large.safetensors", {f"t{index}": _filled(index, 3_000_000) for index in range(6)})


def _filled(value: int, size: int) -> Stored:
    return Stored("U8", (size,), bytes([value]) * size)


def streamed(*paths: Path, **arguments: Any) -> list[tuple[str, bytes]]:
    with SafetensorsStreamer() as opened:
        opened.stream_files(paths, **arguments)
        return [(name, raw(tensor)) for name, tensor in opened.get_tensors()]


# The calls that engines make.


def test_a_file_is_streamed(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(str(file))
        made = dict(opened.get_tensors())
    theirs = safetensors.torch.load_file(file)
    assert list(made) == ["t0", "t1", "t2"]
    assert all(torch.equal(made[name], theirs[name]) for name in theirs)


def test_the_arguments_have_the_names_order_and_defaults_that_engines_use() -> None:
    expected = {
        "s3_credentials": None,
        "device": "cpu",
        "is_distributed": False,
        "tensor_names": None,
        "owned": True,
        "dtype": None,
        "select": None,
    }
    for method, first in ((SafetensorsStreamer.stream_file, "path"), (SafetensorsStreamer.stream_files, "paths")):
        parameters = list(inspect.signature(method).parameters.values())[1:]
        assert parameters[0].name == first
        both = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        named = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        assert both + named == parameters
        assert [(each.name, each.default) for each in both[1:]] == list(expected.items())
        assert [(each.name, each.default) for each in named] == [("progress", False), ("group", None), ("into", None)]


def test_all_arguments_may_be_positional(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(file, None, "cpu", False, ["t1"], False)
        assert [name for name, _ in opened.get_tensors()] == ["t1"]
        opened.stream_files([file], S3Credentials(), "cpu", False, ["t2"], True)
        assert [name for name, _ in opened.get_tensors()] == ["t2"]


def test_all_arguments_may_be_named(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(
            path=file, s3_credentials=None, device="cpu", is_distributed=False, tensor_names={"t1"}, owned=True
        )
        assert [name for name, _ in opened.get_tensors()] == ["t1"]
        opened.stream_files(paths=[file], device=torch.device("cpu"), owned=False)
        assert len(list(opened.get_tensors())) == 3


@pytest.mark.parametrize("owned", [True, False])
def test_tensors_may_be_kept_whatever_owned_says(owned: bool, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large, owned=owned)
        kept = list(opened.get_tensors())
    assert [(int(tensor.min()), int(tensor.max())) for _, tensor in kept] == [(index, index) for index in range(6)]


class _Path:
    """A path-like object of no known class."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_path_like_objects_are_paths(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(_Path(file))
        assert len(list(opened.get_tensors())) == 3
        opened.stream_files((_Path(file), file, str(file)))
        assert len(list(opened.get_tensors())) == 9


def test_a_relative_path_is_a_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert len(streamed(Path(file.name))) == 3


def test_files_come_in_the_order_given(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, numbered([2, 1], name)) for name in ("z", "a", "m")]
    assert [name for name, _ in streamed(*paths)] == ["z0", "z1", "a0", "a1", "m0", "m1"]


def test_a_header_in_another_order_than_the_data_gives_tensors_in_file_order(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(encode(numbered([3, 2, 1]), header_order=["t2", "t0", "t1"]))
    assert [name for name, _ in streamed(tmp_path / "m")] == ["t0", "t1", "t2"]


def test_metadata_in_the_header_is_no_tensor(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(encode(numbered([3]), metadata={"format": "pt"}))
    assert [name for name, _ in streamed(tmp_path / "m")] == ["t0"]


def test_the_size_is_that_of_all_tensors(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        assert opened.total_size == 0
        opened.stream_files([file, file])
        assert opened.total_size == 120
        opened.stream_files([file, file], tensor_names=None)
        opened.stream_file(file, tensor_names=["t2"])
        assert opened.total_size == 30


def test_metadata_tells_name_shape_dtype_and_offsets_of_each_files_tensors(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"x": stored("BF16", (2, 3)), "y": stored("F32", ())})
    second = write(tmp_path / "b", {"z": stored("U8", (0,))})
    with SafetensorsStreamer() as opened:
        assert opened.files_to_tensors_metadata == {}
        opened.stream_files([first, second])
        found = {
            index: [
                (each.name, tuple(each.shape), each.dtype, each.offsets.start, each.offsets.end) for each in tensors
            ]
            for index, tensors in opened.files_to_tensors_metadata.items()
        }
    assert found == {0: [("x", (2, 3), "BF16", 0, 12), ("y", (), "F32", 12, 16)], 1: [("z", (0,), "U8", 0, 0)]}


def test_metadata_is_there_before_the_first_tensor_and_after_the_last(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(file)
        before = opened.files_to_tensors_metadata
        list(opened.get_tensors())
        assert opened.files_to_tensors_metadata == before
        assert len(before[0]) == 3


# Ordinary, and not the end.


def test_no_files_give_no_tensors_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_files([])
        assert list(opened.get_tensors()) == []
        assert opened.files_to_tensors_metadata == {}
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no file" in warning.getMessage()


def test_a_file_without_tensors_gives_none(tmp_path: Path, file: Path) -> None:
    empty = write(tmp_path / "empty", {})
    assert streamed(empty) == []
    assert [name for name, _ in streamed(empty, file, empty)] == ["t0", "t1", "t2"]


@pytest.mark.parametrize("limit", ["-1", "0", "1"])
def test_empty_tensors_only(tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    path = write(tmp_path / "m", numbered([0, 0]))
    assert streamed(path) == [("t0", b""), ("t1", b"")]


# tensor_names.


def _bytes_read() -> int:
    """Bytes that this process has read so far, from wherever."""
    with open("/proc/self/io") as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("rchar:"))


def test_only_the_bytes_of_the_named_tensors_are_read(large: Path) -> None:
    with SafetensorsStreamer() as opened:
        before = _bytes_read()
        opened.stream_file(large, tensor_names=["t1", "t4"])
        assert [(name, int(tensor[7])) for name, tensor in opened.get_tensors()] == [("t1", 1), ("t4", 4)]
        assert 6_000_000 <= _bytes_read() - before < 6_500_000


@pytest.mark.parametrize(
    ("names", "error"),
    [("t0", TypeError), ([], ValueError), (["t0", "nope"], ValueError), ([1], TypeError), (7, TypeError)],
    ids=repr,
)
def test_names_that_cannot_be_used_are_refused(file: Path, names: Any, error: type[Exception]) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(StreamerError, match="tensor_names") as raised:
        opened.stream_file(file, tensor_names=names)
    assert isinstance(raised.value, error)


def test_a_name_that_is_in_two_files_is_refused(file: Path) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(ArgumentError, match="'t1'"):
        opened.stream_files([file, file], tensor_names=["t1"])


# Calls out of turn.


def test_there_is_nothing_to_get_before_stream_files() -> None:
    with SafetensorsStreamer() as opened, pytest.raises(StateError, match="call stream_file or stream_files first"):
        opened.get_tensors()


def test_tensors_are_given_out_once(file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(file)
        list(opened.get_tensors())
        with pytest.raises(StateError, match="get_tensors was called before"):
            opened.get_tensors()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda opened, file: opened.stream_file(file), id="stream_file"),
        pytest.param(lambda opened, file: opened.stream_files([file]), id="stream_files"),
        pytest.param(lambda opened, file: opened.get_tensors(), id="get_tensors"),
    ],
)
def test_a_closed_streamer_is_refused(file: Path, call: Callable[[SafetensorsStreamer, Path], object]) -> None:
    opened = SafetensorsStreamer()
    opened.close()
    with pytest.raises(StateError, match="closed: use it in another with statement"):
        call(opened, file)


def test_closing_is_idempotent(file: Path) -> None:
    opened = SafetensorsStreamer()
    opened.stream_file(file)
    opened.close()
    opened.close()


def test_reading_on_after_the_close_is_an_error(large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        tensors = opened.get_tensors()
        next(tensors)
    with pytest.raises(StateError, match="closed while its tensors were being read"):
        next(tensors)


def test_the_caller_may_close_inside_its_loop(large: Path) -> None:
    opened = SafetensorsStreamer()
    opened.stream_file(large)
    names = []

    def loop() -> None:
        for name, _ in opened.get_tensors():
            names.append(name)
            opened.close()

    with pytest.raises(StateError, match="closed"):
        loop()
    assert names == ["t0"]


# One streamer, many loads.


def test_it_streams_again_after_a_finished_load(file: Path, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        for path, count in ((file, 3), (large, 6), (file, 3)):
            opened.stream_file(path)
            assert len(list(opened.get_tensors())) == count


def test_it_streams_again_in_another_with_block(file: Path) -> None:
    opened = SafetensorsStreamer()
    for _ in range(3):
        with opened as entered:
            assert entered is opened
            opened.stream_file(file)
            assert len(list(opened.get_tensors())) == 3
        with pytest.raises(StateError, match="closed"):
            opened.stream_file(file)


def test_a_load_from_a_block_before_stays_ended(file: Path, large: Path) -> None:
    opened = SafetensorsStreamer()
    with opened:
        opened.stream_file(large)
        old = opened.get_tensors()
        next(old)
    with opened:
        with pytest.raises(StateError, match="nothing to stream"):
            opened.get_tensors()
        opened.stream_file(file)
        with pytest.raises(StateError, match="closed while its tensors were being read"):
            next(old)
        assert len(list(opened.get_tensors())) == 3


def test_it_streams_again_after_an_abandoned_load(file: Path, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        for _ in opened.get_tensors():
            break
        opened.stream_file(file)
        assert len(list(opened.get_tensors())) == 3


def test_it_streams_again_after_a_load_that_nobody_asked_tensors_of(file: Path, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        opened.stream_file(file)
        assert len(list(opened.get_tensors())) == 3


def test_it_streams_again_after_a_load_that_could_not_start(file: Path, tmp_path: Path) -> None:
    with SafetensorsStreamer() as opened:
        with pytest.raises(NotFoundError):
            opened.stream_file(tmp_path / "missing")
        opened.stream_file(file)
        assert len(list(opened.get_tensors())) == 3


def test_it_streams_again_after_a_failed_load(file: Path, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        _fail(opened, large)
        opened.stream_file(file)
        assert len(list(opened.get_tensors())) == 3


def test_a_new_load_ends_the_one_before(file: Path, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        old = opened.get_tensors()
        next(old)
        opened.stream_file(file)
        with pytest.raises(StateError, match="closed"):
            next(old)
        assert len(list(opened.get_tensors())) == 3


def test_a_load_that_could_not_start_leaves_nothing_of_the_one_before(file: Path, tmp_path: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(file)
        with pytest.raises(NotFoundError):
            opened.stream_file(tmp_path / "missing")
        assert opened.total_size == 0
        assert opened.files_to_tensors_metadata == {}
        with pytest.raises(StateError, match="nothing to stream"):
            opened.get_tensors()


def _fail(opened: SafetensorsStreamer, large: Path) -> None:
    opened.stream_file(large)
    tensors = opened.get_tensors()
    tensor = next(tensors)[1]
    os.truncate(large, 4_000_000)
    with pytest.raises(TruncatedError):
        next(tensors)
    assert int(tensor[0]) == 0


# Files that change while they are read.


def test_a_file_that_is_cut_short_meanwhile_is_an_error_that_says_where(large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        tensors = opened.get_tensors()
        # Nothing is read of the second tensor before it is asked for, as long as the first is held.
        first = next(tensors)
        os.truncate(large, 4_000_000)
        with pytest.raises(
            TruncatedError, match=rf"^{large}: ends at byte \d+, .* \(while reading tensor 't1'( and 1 more)?\)$"
        ) as raised:
            next(tensors)
        assert isinstance(raised.value, EOFError)
        assert list(tensors) == []
        assert first[0] == "t0"
        assert (int(first[1].min()), int(first[1].max())) == (0, 0)


def test_a_file_that_is_written_to_meanwhile_is_an_error(large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        tensors = opened.get_tensors()
        first = next(tensors)
        with open(large, "r+b") as written:
            written.seek(4_000_000)
            written.write(b"\xff")
        os.utime(large, (1, 1))  # whatever the clock's resolution
        with pytest.raises(SourceChangedError, match=rf"^{large}: was written to .* \(while reading tensor 't1'"):
            next(tensors)
        assert first[0] == "t0"


def test_a_file_that_is_replaced_meanwhile_is_streamed_as_it_was(large: Path, file: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        tensors = opened.get_tensors()
        values = [int(next(tensors)[1][0])]
        os.replace(file, large)
        values += [int(tensor[0]) for _, tensor in tensors]
    assert values == list(range(6))


# Errors before anything is read.


@pytest.mark.parametrize("path", [7, None, b"bytes", ["list"]], ids=repr)
def test_what_is_no_path_is_refused(path: Any) -> None:
    with SafetensorsStreamer() as opened:
        with pytest.raises(ArgumentTypeError):
            opened.stream_file(path)
        with pytest.raises(ArgumentTypeError):
            opened.stream_files([path])


@pytest.mark.parametrize("paths", ["model.safetensors", b"model", Path("model")], ids=repr)
def test_one_path_is_no_list_of_paths(paths: Any) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(ArgumentTypeError, match="stream_file"):
        opened.stream_files(paths)


@pytest.mark.parametrize("url", ["abfs://container/model", "ftp://host/model"])
def test_storage_that_is_not_supported_is_refused_by_name(url: str) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(UnsupportedError, match=re.escape(url)) as raised:
        opened.stream_file(url)
    assert isinstance(raised.value, NotImplementedError)


@pytest.mark.parametrize(("setting", "level"), [("auto", "INFO"), ("1", "WARNING"), ("0", "INFO")])
def test_without_other_ranks_a_distributed_load_is_an_ordinary_one_which_the_log_tells(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str, level: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIST", setting)
    with caplog.at_level(logging.INFO):
        assert [name for name, _ in streamed(file, is_distributed=True)] == ["t0", "t1", "t2"]
    told = [record for record in caplog.records if record.message.startswith("Not distributed")]
    assert [record.levelname for record in told] == [level]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(NotFoundError, match=f"^{tmp_path}/nope: ") as raised:
        opened.stream_file(tmp_path / "nope")
    assert isinstance(raised.value, FileNotFoundError)


def test_a_folder_is_named(tmp_path: Path) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(IsDirectoryError, match=f"^{tmp_path}: ") as raised:
        opened.stream_file(tmp_path)
    assert isinstance(raised.value, IsADirectoryError)


def test_a_file_that_is_not_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"hello, this is something else")
    with SafetensorsStreamer() as opened, pytest.raises(HeaderError, match=f"^{tmp_path}/m ") as raised:
        opened.stream_file(tmp_path / "m")
    assert isinstance(raised.value, ValueError)


def test_one_bad_file_of_many_stops_them_all_before_a_read(tmp_path: Path, file: Path) -> None:
    with SafetensorsStreamer() as opened:
        with pytest.raises(NotFoundError):
            opened.stream_files([file, tmp_path / "nope", file])
        with pytest.raises(StateError):
            opened.get_tensors()


@pytest.mark.parametrize(
    ("device", "error"), [("nonsense", ArgumentError), ("meta", ArgumentError), ("cuda", DeviceError)]
)
def test_a_device_that_cannot_be_used_is_an_error_before_a_file_is_opened(
    tmp_path: Path, device: str, error: type[Exception]
) -> None:
    no_gpu = Parts(Gpus(is_available=lambda: False))
    with streamer_of(SafetensorsStreamer, no_gpu) as opened, pytest.raises(error, match=device):
        opened.stream_file(tmp_path / "missing", device=device)


def test_tensors_for_another_device_are_put_there_as_they_come(file: Path) -> None:
    class AnyDevice(Parts):
        def resolve_device(self, device: str | torch.device | None) -> torch.device:
            return torch.device("cpu" if device is None else device)

    # "meta" stands for a device that this machine has not.
    with streamer_of(SafetensorsStreamer, AnyDevice()) as opened:
        opened.stream_file(file, device="meta")
        assert [(name, tensor.device.type) for name, tensor in opened.get_tensors()] == [
            ("t0", "meta"),
            ("t1", "meta"),
            ("t2", "meta"),
        ]


# Settings.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNAI_STREAMER_CONCURRENCY", "many"),
        ("RUNAI_STREAMER_CHUNK_BYTESIZE", "-1"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "-2"),
        ("RUNAI_STREAMER_DIRECT_IO", "maybe"),
        ("RUNAI_STREAMER_LOG_LEVEL", "LOUD"),
        ("LOCAL_WORLD_SIZE", "x"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_value(
    file: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with SafetensorsStreamer() as opened, pytest.raises(ConfigError, match=f"{name}='{value}'") as raised:
        opened.stream_file(file)
    assert isinstance(raised.value, ValueError)


def test_settings_are_read_at_each_load(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(file)
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "29")
        with pytest.raises(RunaiStreamerMemoryLimitException):
            opened.stream_file(file)


@pytest.mark.parametrize("limit", ["-1", "0", "3000000", "7000000", "1000000000000"])
def test_any_sufficient_limit_gives_the_same_tensors(large: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        found = [(name, int(tensor.min()), int(tensor.max())) for name, tensor in opened.get_tensors()]
    assert found == [(f"t{index}", index, index) for index in range(6)]


def test_a_limit_below_the_largest_tensor_names_tensor_size_and_limit(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "2999999")
    with (
        SafetensorsStreamer() as opened,
        pytest.raises(RunaiStreamerMemoryLimitException, match=r"'t0' has 3000000 bytes.*LIMIT=2999999"),
    ):
        opened.stream_file(large)


@pytest.mark.parametrize("concurrency", ["1", "2", "64"])
def test_any_concurrency_gives_the_same_tensors(large: Path, concurrency: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", concurrency)
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "-1")
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        assert [int(tensor[-1]) for _, tensor in opened.get_tensors()] == list(range(6))


def test_the_concurrency_is_the_number_of_readers(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "3")
    monkeypatch.setenv("RUNAI_STREAMER_DIRECT_IO", "1")  # reads from the page cache take no more readers than CPUs
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        # At the limit, none of them comes to its end.
        while len(our_threads()) < 3:
            time.sleep(0.001)
        assert sorted(our_threads()) == ["runai-reader-0", "runai-reader-1", "runai-reader-2"]


# The log.

_SIZE = r"(?:\d+ Bytes|\d+\.\d (?:[KMGT])iB)"
LINE = re.compile(rf"\[RunAI Streamer\] Overall time to stream {_SIZE} of all files to cpu: \d+\.\d\ds, {_SIZE}/s")


def test_the_end_of_a_load_is_logged_in_the_form_that_tools_parse(
    large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        streamed(large)
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    assert record.levelno == logging.INFO
    assert LINE.fullmatch(record.getMessage())
    assert record.getMessage().startswith("[RunAI Streamer] Overall time to stream 17.2 MiB of all files to cpu: ")


def test_a_load_that_ends_early_is_not_logged(large: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER), SafetensorsStreamer() as opened:
        opened.stream_file(large)
        next(opened.get_tensors())
        _fail(opened, large)
    assert [record for record in caplog.records if record.name == LOGGER] == []


@pytest.fixture
def package_log() -> Iterator[logging.Logger]:
    """The package's logger, put back as it was afterwards."""
    logger = logging.getLogger("runai_model_streamer")
    before = logger.level, list(logger.handlers), logger.propagate
    logger.setLevel(logging.NOTSET)
    yield logger
    logger.level, logger.handlers, logger.propagate = before


def test_the_line_goes_to_stderr_when_asked_to(
    file: Path, package_log: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_LOG_TO_STDERR", "1")
    streamed(file)
    assert LINE.search(capsys.readouterr().err)


@pytest.mark.parametrize("level", ["WARNING", "error"])
def test_the_line_is_silent_above_its_level(
    file: Path,
    level: str,
    package_log: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_LOG_TO_STDERR", "1")
    monkeypatch.setenv("RUNAI_STREAMER_LOG_LEVEL", level)
    streamed(file)
    assert capsys.readouterr().err == ""


# The end.


def test_a_streamer_left_open_warns_and_its_threads_end(large: Path) -> None:
    opened = SafetensorsStreamer()
    opened.stream_file(large)
    assert our_threads()
    with pytest.warns(ResourceWarning, match="unclosed .*SafetensorsStreamer.*with statement, or call close"):
        del opened
    join_ours()


def test_a_streamer_left_open_in_its_loop_warns_too(large: Path) -> None:
    opened = SafetensorsStreamer()
    opened.stream_file(large)
    tensors = opened.get_tensors()
    next(tensors)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del opened, tensors
    join_ours()


def test_threads_end_even_where_warnings_are_errors(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = SafetensorsStreamer()
        opened.stream_file(large)
        del opened
    join_ours()
    assert seen == [ResourceWarning]


@pytest.mark.parametrize("end", ["closed", "finished", "failed", "never started", "in a with statement"])
def test_any_other_streamer_does_not_warn(end: str, large: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        opened = SafetensorsStreamer()
        if end == "closed":
            opened.stream_file(large)
            opened.close()
        elif end == "finished":
            opened.stream_file(large)
            assert len(list(opened.get_tensors())) == 6
        elif end == "failed":
            _fail(opened, large)
        elif end == "in a with statement":
            with opened:
                opened.stream_file(large)
        del opened
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


def test_threads_end_with_the_last_tensor(large: Path) -> None:
    opened = SafetensorsStreamer()
    opened.stream_file(large)
    list(opened.get_tensors())
    assert our_threads() == []


def test_an_exception_in_the_callers_loop_ends_them_too(large: Path) -> None:
    def load() -> None:
        with SafetensorsStreamer() as opened:
            opened.stream_file(large)
            for _ in opened.get_tensors():
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load()
    assert our_threads() == []


@pytest.mark.parametrize("select", [None, {"t0": (0, 0, 5)}], ids=["whole", "parts"])
def test_an_iterator_that_is_dropped_before_its_first_tensor_ends_the_load(select: Any, large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large, select=select)
        tensors = opened.get_tensors()
        assert our_threads()
        del tensors
        join_ours()
        assert our_threads() == []
        assert opened.report.outcome == "abandoned"


def test_a_load_without_a_thread_to_read_with_is_an_error_after_which_nothing_is_open(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = os.listdir("/proc/self/fd")
    opened = SafetensorsStreamer()
    with pytest.raises(StreamerError, match="no thread to read with: can't start new thread"):
        opened.stream_file(file)
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    with pytest.raises(StateError, match="nothing to stream"):
        opened.get_tensors()
    assert opened.report.outcome == "failed"


def test_a_ctrl_c_at_any_moment_of_stream_file_leaves_nothing_behind(large: Path) -> None:
    """Nothing of the load is left, be it while threads start, before the streamer has the load, or after."""
    began = 0  # calls into the pipeline, and returns from there, until the interrupt
    interrupted = True
    while interrupted:
        began += 1
        left = began

        def interrupt(frame: types.FrameType, event: str, _: object) -> None:
            nonlocal left
            code = frame.f_code
            ours = re.search("/pipeline/|/stream", code.co_filename) or code.co_qualname == "Event.wait"
            # What a generator raises that is dropped, nobody hears.
            if event in ("call", "return") and ours and not code.co_flags & inspect.CO_GENERATOR:
                left -= 1
                if not left:
                    raise KeyboardInterrupt

        opened = SafetensorsStreamer()
        try:
            sys.setprofile(interrupt)
            opened.stream_file(large)
            interrupted = False
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        opened.close()
        join_ours()
        assert our_threads() == [], f"interrupted at {began}"


def test_tensors_are_right_after_the_streamer_is_closed(large: Path) -> None:
    with SafetensorsStreamer() as opened:
        opened.stream_file(large)
        kept = dict(opened.get_tensors())
    gc.collect()
    assert [(int(tensor.min()), int(tensor.max())) for tensor in kept.values()] == [(i, i) for i in range(6)]


def test_two_streamers_work_side_by_side(large: Path, file: Path) -> None:
    with SafetensorsStreamer() as first, SafetensorsStreamer() as second:
        first.stream_file(large)
        second.stream_file(file)
        pairs = list(zip(first.get_tensors(), second.get_tensors(), strict=False))
    assert [(a[0], b[0]) for a, b in pairs] == [("t0", "t0"), ("t1", "t1"), ("t2", "t2")]
