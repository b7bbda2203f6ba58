"""Names that other projects import, and the calls that they make: vLLM, SGLang, KAITO, Dragonfly, forks of mocks."""

import importlib
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from runai_model_streamer import DistributedStreamer, FileChunks, FileStreamer, S3Credentials, SafetensorsStreamer
from runai_model_streamer.errors import HeaderError, NotFoundError
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request
from tests.checkpoints import PATIENCE, stored, write
from tests.servers import FaultServer

NAMES = {
    "runai_model_streamer": "SafetensorsStreamer FileStreamer DistributedStreamer FileChunks ObjectStorageModel "
    "S3Credentials list_safetensors pull_files RunaiStreamerMemoryLimitException",
    "runai_model_streamer.distributed_streamer": "DistributedStreamer",
    "runai_model_streamer.distributed_streamer.distributed_streamer": "DistributedStreamer",
    "runai_model_streamer.file_streamer": "FileStreamer FileChunks",
    "runai_model_streamer.file_streamer.file_streamer": "FileStreamer RunaiStreamerInvalidInputException",
    "runai_model_streamer.file_streamer.requests_iterator": "FileChunks RunaiStreamerMemoryLimitException",
    "runai_model_streamer.s3_utils.s3_utils": "S3Credentials is_s3_path is_gs_path is_azure_path s3_glob s3_pull_files "
    "filter_allow filter_ignore removeprefix",
    "runai_model_streamer.safetensors_streamer.safetensors_pytorch": "prepare_request",
    "runai_model_streamer.safetensors_streamer.safetensors_streamer": "SafetensorsStreamer ObjectStorageModel "
    "list_safetensors pull_files",
    "runai_model_streamer.safetensors_streamer.streamer_mock": "StreamerPatcher",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module].split()])
def test_a_name_is_where_others_import_it_from(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    first = {"a": stored("BF16", [2, 3]), "b": stored("F32", [0]), "c": stored("U8", [5])}
    return [
        str(write(tmp_path / "model-1.safetensors", first)),
        str(write(tmp_path / "model-2.safetensors", {"d": stored("F16", [4])})),
    ]


class TestHeaders:
    """`prepare_request`, with which vLLM 0.33 looks into shards that a draft model may leave out."""

    def test_it_gives_each_files_data_offset_tensors_and_sizes(self, shards: list[str]) -> None:
        with DistributedStreamer() as streamer:
            first, second = prepare_request(streamer, shards, None)
        offset, tensors, sizes = first
        shapes: list[Any] = [tensor.shape for tensor in tensors]
        data = Path(shards[0]).read_bytes()
        assert offset == 8 + int.from_bytes(data[:8], "little")
        assert ([tensor.name for tensor in tensors], shapes) == (["a", "b", "c"], [[2, 3], [0], [5]])
        assert (sizes, sum(sizes)) == ([12, 0, 5], len(data) - offset)
        assert [tensor.name for tensor in second[1]] == ["d"]

    def test_it_takes_the_keywords_of_the_original(self, shards: list[str]) -> None:
        with FileStreamer() as streamer:
            found = prepare_request(fs=streamer, paths=shards, s3_credentials=None, discover_ranks=False)
        assert len(found) == 2

    def test_no_files_have_no_headers(self) -> None:
        with DistributedStreamer() as streamer:
            assert prepare_request(streamer, [], None) == []

    def test_what_the_streamer_streams_goes_on(self, shards: list[str]) -> None:
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(0, shards[0], offsets=[0], sizes=[8])])
            prepare_request(streamer, shards, None)
            assert len(list(streamer.get_chunks())) == 1

    def test_objects_cost_one_request_each_and_no_tensor_is_read(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        large = Path(write(tmp_path / "large.safetensors", {"w": stored("F32", [250_000])})).read_bytes()
        with FaultServer() as server:
            server.put("models", "org/large.safetensors", large)
            for name, value in {
                "AWS_ENDPOINT_URL": server.endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            }.items():
                monkeypatch.setenv(name, value)
            with DistributedStreamer() as streamer:
                ((_, tensors, sizes),) = prepare_request(streamer, ["s3://models/org/large.safetensors"], None)
            assert ([tensor.name for tensor in tensors], sizes) == (["w"], [1_000_000])
            assert [request.span for request in server.requests] == [(0, (256 << 10) - 1)]

    def test_a_missing_and_a_broken_file_are_our_errors(self, shards: list[str], tmp_path: Path) -> None:
        (tmp_path / "broken.safetensors").write_bytes(Path(shards[0]).read_bytes()[:-1])
        with DistributedStreamer() as streamer:
            with pytest.raises(NotFoundError, match="missing"):
                prepare_request(streamer, [*shards, str(tmp_path / "missing.safetensors")], None)
            with pytest.raises(HeaderError, match=r"broken\.safetensors"):
                prepare_request(streamer, [str(tmp_path / "broken.safetensors")], None)

    def test_one_rank_of_a_group_reads_headers_while_the_others_do_not(self, shards: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        context: Any = multiprocessing.get_context("spawn")
        ranks = [context.Process(target=_read_headers_on_one_rank, args=(rank, port, shards)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(PATIENCE)
        assert [rank.exitcode for rank in ranks] == [0, 0]


def _read_headers_on_one_rank(rank: int, port: int, paths: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if rank == 1:
        with DistributedStreamer() as streamer:
            assert len(prepare_request(streamer, paths, None)) == 2
    dist.barrier()
    dist.destroy_process_group()


def test_ranges_are_streamed_without_the_discovery_of_ranks(shards: list[str]) -> None:
    chunks = [FileChunks.contiguous(0, shards[0], 0, [8])]
    with DistributedStreamer() as streamer:
        streamer.stream_files(chunks, None, "cpu", False, True, False)
        assert len(list(streamer.get_chunks())) == 1
        streamer.stream_files(chunks, None, "cpu", is_distributed=False, discover_ranks=False)
        assert len(list(streamer.get_chunks())) == 1


class TestObjectStore:
    """`FileStreamer.handle_object_store`, with which Dragonfly's benchmark hands over credentials."""

    def test_it_gives_the_path_back(self, shards: list[str]) -> None:
        with FileStreamer() as streamer:
            assert streamer.handle_object_store(shards[0], streamer.streamer, S3Credentials()) == shards[0]

    def test_its_credentials_are_used_where_a_call_gives_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
        with FaultServer() as server:
            server.put("models", "org/index.bin", b"12345678")
            known = S3Credentials("theirs", "secret-of-theirs", endpoint=server.endpoint)
            with FileStreamer() as streamer:
                streamer.handle_object_store("s3://models/org", streamer.streamer, known)
                assert streamer.list_files("s3://models/org") == [("s3://models/org/index.bin", 8)]
                streamer.stream_files([FileChunks(0, "s3://models/org/index.bin", offsets=[0], sizes=[8])])
                assert len(list(streamer.get_chunks())) == 1
            assert {"Credential=theirs" in request.headers["Authorization"] for request in server.requests} == {True}


class TestS3Utils:
    def test_paths_are_told_by_their_scheme(self) -> None:
        from runai_model_streamer.s3_utils.s3_utils import is_azure_path, is_gs_path, is_s3_path

        paths = ("s3://b/k", "gs://b/k", "az://c/k", "/s3/k")
        assert [is_s3_path(path) for path in paths] == [True, False, False, False]
        assert [is_gs_path(path) for path in paths] == [False, True, False, False]
        assert [is_azure_path(path) for path in paths] == [False, False, True, False]

    def test_paths_are_filtered_by_patterns(self) -> None:
        from runai_model_streamer.s3_utils.s3_utils import filter_allow, filter_ignore, removeprefix

        paths = ["a/config.json", "a/model.safetensors"]
        assert filter_allow(paths, ["*.json", "*.txt"]) == ["a/config.json"]
        assert filter_ignore(paths, ["*.json", "*.txt"]) == ["a/model.safetensors"]
        assert (removeprefix("s3://b", "s3://"), removeprefix("b", "s3://")) == ("b", "b")

    def test_a_prefix_is_listed_and_pulled(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from runai_model_streamer.s3_utils.s3_utils import s3_glob, s3_pull_files

        monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
        with FaultServer() as server:
            for key in ("org/config.json", "org/model.safetensors", "org/below/more.json"):
                server.put("models", key, b"{}")
            known = S3Credentials("theirs", "secret-of-theirs", endpoint=server.endpoint)
            assert s3_glob("s3://models/org", ["*.json"], known) == ["s3://models/org/config.json"]
            assert s3_glob("s3://models/org/", None, known) == [
                "s3://models/org/config.json",
                "s3://models/org/model.safetensors",
            ]
            s3_pull_files("s3://models/org/", str(tmp_path / "pulled"), ["*.json"], None, known)
        assert sorted(path.name for path in (tmp_path / "pulled").rglob("*.json")) == ["config.json", "more.json"]


def test_metadata_has_the_methods_of_the_original(shards: list[str]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(shards)
        info: Any = streamer.files_to_tensors_metadata[0][0]
        assert (info.get_bytesize(), info.get_item_count(), info.get_torch_dtype()) == (12, 6, torch.bfloat16)
        assert info.shape == [2, 3]
        assert len(list(streamer.get_tensors())) == 4


def test_metadata_of_a_part_has_a_shape_that_equals_a_list(shards: list[str]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(shards, select={"a": (0, 1, 2), "b": None, "c": None, "d": None})
        info: Any = streamer.files_to_tensors_metadata[0][0]
        assert info.shape == [1, 3]
        assert len(list(streamer.get_tensors())) == 1
