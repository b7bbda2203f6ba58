"""`FileStreamer`: raw ranges of files and objects, in the order given, and the listing of files."""

import inspect
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    RunaiStreamerMemoryLimitException,
    S3Credentials,
)
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    StateError,
    StreamerError,
    UnsupportedError,
)
from runai_model_streamer.io.checksums import make_digest
from tests.checkpoints import join_ours, our_threads, raw
from tests.servers import Exchange, FaultServer, MotoServer, moto_server

DATA = random.Random(1).randbytes(3_000_000)
URL = "s3://bucket/folder/data.bin"


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "data.bin").write_bytes(DATA)
    return str(tmp_path / "data.bin")


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.put("bucket", "folder/data.bin", DATA)
        server.put("bucket", "folder/empty", b"")
        server.put("bucket", "folder/below/index.json", b"{}")
        server.put("bucket", "folder2/other", b"no")
        yield server


@pytest.fixture
def objects(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the folder."""
    for name, value in environment(moto.endpoint).items():
        monkeypatch.setenv(name, value)
    return "s3://bucket/folder"


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same files in a local folder and in S3."""
    if request.param == "s3":
        return str(request.getfixturevalue("objects"))
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "data.bin").write_bytes(DATA)
    (tmp_path / "folder" / "empty").write_bytes(b"")
    (tmp_path / "folder" / "below" / "index.json").write_bytes(b"{}")
    return str(tmp_path / "folder")


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }


def streamed(*chunks: FileChunks, **arguments: Any) -> list[tuple[int, int, bytes]]:
    with FileStreamer() as streamer:
        streamer.stream_files(chunks, **arguments)
        return [(file, index, raw(tensor)) for file, index, tensor in streamer.get_chunks()]


def expected(*chunks: FileChunks) -> list[tuple[int, int, bytes]]:
    return [
        (each.id, index, DATA[offset : offset + size])
        for each in chunks
        for index, (offset, size) in enumerate(zip(each.offsets, each.sizes, strict=True))
    ]


# The calls of existing code.


def test_the_arguments_have_the_originals_names_order_and_defaults() -> None:
    found = {
        method.__name__: [(each.name, each.default) for each in inspect.signature(method).parameters.values()]
        for method in (FileStreamer.stream_files, FileStreamer.list_files, FileChunks.contiguous)
    }
    empty = inspect.Parameter.empty
    assert found["stream_files"][1:] == [
        ("file_stream_requests", empty),
        ("credentials", None),
        ("device", "cpu"),
        ("memory_limit", None),
        ("owned", True),
        ("progress", False),
    ]
    assert found["list_files"][1:5] == [
        ("prefix", empty),
        ("is_recursive", True),
        ("allow_patterns", None),
        ("ignore_patterns", None),
    ]
    assert found["contiguous"] == [("id", empty), ("path", empty), ("offset", empty), ("sizes", empty)]
    assert list(inspect.signature(FileChunks).parameters) == ["id", "path", "offsets", "sizes"]


def test_a_range_is_a_row_of_bytes_with_its_files_id_and_its_index(file: str) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(7, file, [5, 1000], [10, 20])])
        found = list(streamer.get_chunks())
        assert streamer.total_size == 30
    assert [(each[0], each[1], each[2].dtype, tuple(each[2].shape)) for each in found] == [
        (7, 0, torch.uint8, (1, 10)),
        (7, 1, torch.uint8, (1, 20)),
    ]
    assert bytes(found[1][2][0].numpy()) == DATA[1000:1020]


def test_contiguous_ranges_follow_one_another() -> None:
    made = FileChunks.contiguous(3, "some/file", 100, [10, 0, 5])
    assert (made.id, made.path, list(made.offsets), list(made.sizes)) == (3, "some/file", [100, 110, 110], [10, 0, 5])
    assert (made.total_size(), made.max_chunk_size()) == (15, 10)
    nothing = FileChunks.contiguous(3, "some/file", 100, [])
    assert (list(nothing.offsets), nothing.total_size(), nothing.max_chunk_size()) == ([], 0, 0)


# Which bytes, in which order.


@pytest.mark.parametrize(
    ("offsets", "sizes"),
    [
        pytest.param([2_000_000, 0, 1_000_000], [100, 200, 300], id="any order"),
        pytest.param([0, 50, 50, 10], [100, 100, 100, 20], id="overlapping"),
        pytest.param([7, 7], [1_000_000, 1_000_000], id="twice"),
        pytest.param([0, 10, 5, 3_000_000], [0, 3, 0, 0], id="empty ones"),
        pytest.param([0], [3_000_000], id="the whole file"),
        pytest.param([2_999_999], [1], id="the last byte"),
        pytest.param([], [], id="none"),
    ],
)
def test_ranges_come_in_the_order_given(folder: str, offsets: list[int], sizes: list[int]) -> None:
    chunks = FileChunks(1, f"{folder}/data.bin", offsets, sizes)
    assert streamed(chunks) == expected(chunks)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ranges=st.lists(
        st.lists(st.tuples(st.integers(0, 2_900_000), st.integers(0, 100_000)), max_size=6), min_size=1, max_size=4
    ),
    limit=st.sampled_from([-1, 0, 200_000]),
)
def test_any_ranges_are_the_files_bytes(ranges: list[list[tuple[int, int]]], limit: int, file: str) -> None:
    chunks = [
        FileChunks(number, file, [offset for offset, _ in each], [size for _, size in each])
        for number, each in enumerate(ranges)
    ]
    assert streamed(*chunks, memory_limit=limit) == expected(*chunks)


def test_files_come_in_the_order_given(file: str, objects: str) -> None:
    chunks = [
        FileChunks.contiguous(9, f"{objects}/data.bin", 100, [1_000_000, 5]),
        FileChunks.contiguous(4, file, 0, [10, 20]),
        FileChunks(0, file, [], []),
        FileChunks.contiguous(5, f"{objects}/data.bin", 0, [3_000_000]),
    ]
    assert streamed(*chunks) == expected(*chunks)


def test_an_iterator_that_is_dropped_before_its_first_range_ends_the_load(file: str) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(1, file, 0, [500_000] * 6)], memory_limit=0)
        streamer.get_chunks()
        join_ours()
        assert our_threads() == []
        assert streamer.report.outcome == "abandoned"


def test_an_empty_file_has_empty_ranges(folder: str) -> None:
    assert streamed(FileChunks(1, f"{folder}/empty", [0, 0], [0, 0])) == [(1, 0, b""), (1, 1, b"")]


def test_no_files_give_no_ranges() -> None:
    assert streamed() == []


def test_only_bytes_of_the_ranges_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        server.put("bucket", "folder/data.bin", DATA * 10)
        for name, value in environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        chunks = FileChunks(1, URL, [29_000_000, 12_000_000], [500_000, 1_000_000])
        assert [len(data) for *_, data in streamed(chunks)] == [500_000, 1_000_000]
        assert server.bytes_served <= 1_500_000 + (256 << 10)  # what opening an object brings


# The limit.


def test_the_calls_own_limit_takes_the_place_of_the_settings(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = FileChunks.contiguous(1, file, 0, [1000, 2000])
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "1999")
    with pytest.raises(
        RunaiStreamerMemoryLimitException, match=r"'range 1' has 2000.*RUNAI_STREAMER_MEMORY_LIMIT=1999"
    ):
        streamed(chunks)
    for limit in (-1, 0, 2000):
        assert streamed(chunks, memory_limit=limit) == expected(chunks)
    with pytest.raises(
        RunaiStreamerMemoryLimitException, match=r"data.bin.* more than memory_limit=1999; set it to 2000"
    ):
        streamed(chunks, memory_limit=1999)


@pytest.mark.parametrize(
    ("limit", "error"), [(-2, ArgumentError), ("many", ArgumentTypeError), (0.5, ArgumentTypeError)]
)
def test_a_limit_that_cannot_be_used_is_refused(file: str, limit: Any, error: type[StreamerError]) -> None:
    with pytest.raises(error, match="memory_limit"):
        streamed(FileChunks(1, file, [0], [1]), memory_limit=limit)


@pytest.mark.parametrize("owned", [True, False])
def test_ranges_may_be_kept_whatever_owned_says(file: str, owned: bool) -> None:
    chunks = FileChunks.contiguous(1, file, 0, [500_000] * 6)
    with FileStreamer() as streamer:
        streamer.stream_files([chunks], memory_limit=0, owned=owned)
        kept = list(streamer.get_chunks())
    assert [(file, index, raw(tensor)) for file, index, tensor in kept] == expected(chunks)


# What is refused.


@pytest.mark.parametrize(("offset", "size"), [(3_000_000, 1), (2_999_999, 2), (3_000_001, 0)])
def test_a_range_beyond_the_end_is_an_error_before_anything_is_read(folder: str, offset: int, size: int) -> None:
    chunks = FileChunks(1, f"{folder}/data.bin", [0, offset], [1, size])
    with (
        FileStreamer() as streamer,
        pytest.raises(ValueError, match=rf"data\.bin: range 1, bytes {offset}-{offset + size}, .* has 3000000 bytes"),
    ):
        streamer.stream_files([chunks])


@pytest.mark.parametrize(
    ("offsets", "sizes", "error"),
    [
        ([0], [1, 2], ArgumentError),
        ([-1], [1], ArgumentError),
        ([0], [-1], ArgumentError),
        ([2**63], [1], ArgumentError),
        ([0.5], [1], ArgumentTypeError),
        (0, [1], ArgumentTypeError),
        ([0], "1", ArgumentTypeError),
    ],
    ids=str,
)
def test_ranges_that_cannot_be_are_refused(offsets: Any, sizes: Any, error: type[StreamerError]) -> None:
    with pytest.raises(error, match="some/file: "):
        FileChunks(1, "some/file", offsets, sizes)


def test_the_first_of_contiguous_ranges_begins_at_a_whole_number() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^some/file: offset is a whole number, not 'x'$"):
        FileChunks.contiguous(1, "some/file", "x", [1])  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [FileChunks(1, "f", [], []), "f", ["f"], 7, None], ids=repr)
def test_what_is_no_list_of_chunks_is_refused(chunks: Any) -> None:
    with FileStreamer() as streamer, pytest.raises(ArgumentTypeError, match="stream_files takes a list of FileChunks"):
        streamer.stream_files(chunks)


def test_a_missing_file_is_named(folder: str) -> None:
    with pytest.raises(NotFoundError, match="nope"):
        streamed(FileChunks(1, f"{folder}/nope", [0], [1]))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsDirectoryError):
        streamed(FileChunks(1, str(tmp_path), [0], [0]))


def test_storage_that_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="ftp:// URLs are not supported"):
        FileChunks(1, "ftp://host/key", [0], [1])


def test_a_file_that_is_cut_short_meanwhile_is_an_error(file: str) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(1, file, 0, [1_000_000] * 3)], memory_limit=0)
        found = streamer.get_chunks()
        next(found)
        os.truncate(file, 10)
        with pytest.raises(StreamerError, match=r"data\.bin"):
            list(found)


def test_a_call_that_fails_leaves_no_file_open(file: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ArgumentError):
        streamed(FileChunks(1, file, [0], [1]), FileChunks(2, file, [3_000_000], [1]))
    assert len(os.listdir("/proc/self/fd")) <= len(before)


# Its life, which is that of every streamer.


def test_files_are_closed_with_the_last_range(file: str) -> None:
    before = os.listdir("/proc/self/fd")
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, file, [9, 5, 1], [3, 3, 3]), FileChunks(2, file, [], [])])
        list(streamer.get_chunks())
        join_ours()
        assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda streamer: streamer.stream_files([]), id="stream_files"),
        pytest.param(lambda streamer: streamer.get_chunks(), id="get_chunks"),
        pytest.param(lambda streamer: streamer.list_files("."), id="list_files"),
    ],
)
def test_a_closed_streamer_is_refused(call: Callable[[FileStreamer], object]) -> None:
    streamer = FileStreamer()
    streamer.close()
    streamer.close()
    with pytest.raises(StateError, match="closed: use it in another with statement"):
        call(streamer)


@pytest.mark.parametrize("kind", [FileStreamer, DistributedStreamer])
def test_it_streams_again_in_another_with_block(kind: type[FileStreamer | DistributedStreamer], file: str) -> None:
    streamer, chunks = kind(), FileChunks(1, file, [5, 0], [10, 20])
    for _ in range(2):
        with streamer:
            streamer.stream_files([chunks])
            assert [(one, two, raw(tensor)) for one, two, tensor in streamer.get_chunks()] == expected(chunks)


def test_there_is_nothing_to_get_before_stream_files_and_after_a_call_that_failed(file: str) -> None:
    with FileStreamer() as streamer:
        with pytest.raises(StateError, match="call stream_files first"):
            streamer.get_chunks()
        streamer.stream_files([FileChunks(1, file, [0], [1])])
        with pytest.raises(ArgumentError):
            streamer.stream_files([FileChunks(1, file, [0], [10**7])])
        assert streamer.total_size == 0
        with pytest.raises(StateError, match="call stream_files first"):
            streamer.get_chunks()


def test_ranges_are_given_out_once_and_it_streams_again(file: str) -> None:
    with FileStreamer() as streamer:
        for chunks in (FileChunks(1, file, [0], [10]), FileChunks(2, file, [5, 6], [10, 10])):
            streamer.stream_files([chunks])
            assert [(one, two, raw(tensor)) for one, two, tensor in streamer.get_chunks()] == expected(chunks)
            with pytest.raises(StateError, match="called before"):
                streamer.get_chunks()


def test_an_iterator_that_is_dropped_ends_the_load(file: str) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(1, file, 0, [1_000_000] * 3)], memory_limit=0)
        found = streamer.get_chunks()
        next(found)
        del found
        join_ours()
        assert our_threads() == []


def test_a_streamer_left_open_warns(file: str) -> None:
    streamer = FileStreamer()
    streamer.stream_files([FileChunks.contiguous(1, file, 0, [1_000_000] * 3)], memory_limit=0)
    with pytest.warns(ResourceWarning, match="unclosed .*FileStreamer"):
        del streamer


def test_settings_are_read_at_the_call(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStreamer() as streamer:
        monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "many")
        with pytest.raises(ConfigError, match="RUNAI_STREAMER_CONCURRENCY"):
            streamer.stream_files([FileChunks(1, file, [0], [1])])


def test_explicit_credentials_are_used(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    credentials = S3Credentials("AKID", "other-secret", endpoint=moto.endpoint)
    chunks = FileChunks(1, URL, [5], [5])
    assert streamed(chunks, credentials=credentials) == expected(chunks)
    with FileStreamer() as streamer:
        assert len(streamer.list_files("s3://bucket/folder", credentials=credentials)) == 3


@pytest.mark.parametrize(
    ("offsets", "sizes", "verified"),
    [
        ([0, 1_000_000], [1_000_000, 2_000_000], True),
        ([0], [2_999_999], False),
        ([1_500_000, 0], [1_500_000] * 2, False),
    ],
    ids=["whole", "a part", "out of order"],
)
def test_an_object_is_verified_where_all_of_it_is_read_in_order(
    offsets: Sequence[int], sizes: Sequence[int], verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("awscrt")
    crc = make_digest("CRC64NVME", len(DATA)).add(0, memoryview(DATA)) or b""

    def head(exchange: Exchange) -> None:
        exchange.head(200, {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA=", "x-amz-checksum-type": "FULL_OBJECT"})

    assert crc != bytes(8)
    with FaultServer() as server:
        server.put("bucket", "folder/data.bin", DATA)
        server.choose = lambda request: head if request.method == "HEAD" else None
        for name, value in environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        chunks = FileChunks(1, URL, offsets, sizes)
        if verified:
            with pytest.raises(StreamerError, match="do not have the checksum"):
                streamed(chunks)
        else:
            assert streamed(chunks) == expected(chunks)


# Listing.


def test_files_are_listed_with_their_sizes(folder: str) -> None:
    with FileStreamer() as streamer:
        everything = [(f"{folder}/below/index.json", 2), (f"{folder}/data.bin", 3_000_000), (f"{folder}/empty", 0)]
        assert streamer.list_files(folder) == streamer.list_files(f"{folder}/") == everything
        assert streamer.list_files(folder, False) == everything[1:]
        assert streamer.list_files(folder, True, ["*.json", "*.bin"], ["below/*"]) == everything[1:2]
        assert streamer.list_files(prefix=folder, is_recursive=True, ignore_patterns=["*.bin"]) == everything[::2]


def test_patterns_may_be_of_whole_paths_as_the_original_has_them(folder: str) -> None:
    with FileStreamer() as streamer:
        everything = streamer.list_files(folder)
        assert streamer.list_files(folder, allow_patterns=[f"{folder}/below/*"]) == everything[:1]
        assert streamer.list_files(f"{folder}/", allow_patterns=["*/data.bin"]) == everything[1:2]
        assert streamer.list_files(folder, ignore_patterns=[f"{folder}/*"]) == []


def test_an_empty_list_of_patterns_is_none(folder: str) -> None:
    with FileStreamer() as streamer:
        assert streamer.list_files(folder, True, [], []) == streamer.list_files(folder)


def test_a_missing_folder_is_an_error(folder: str) -> None:
    with FileStreamer() as streamer, pytest.raises(NotFoundError, match="nope"):
        streamer.list_files(f"{folder}/nope")


def test_a_file_is_no_folder(file: str) -> None:
    with FileStreamer() as streamer, pytest.raises(NotDirectoryError):
        streamer.list_files(file)


def test_what_is_listed_can_be_streamed(folder: str) -> None:
    with FileStreamer() as streamer:
        found = streamer.list_files(folder)
        streamer.stream_files([FileChunks(number, path, [0], [size]) for number, (path, size) in enumerate(found)])
        assert [(number, index, raw(data)) for number, index, data in streamer.get_chunks()] == [
            (0, 0, b"{}"),
            (1, 0, DATA),
            (2, 0, b""),
        ]
