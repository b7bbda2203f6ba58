"""The stand-in for object storage that engines use in their own tests, and the paths it is imported from."""

import importlib
from pathlib import Path

import pytest
import torch

import runai_model_streamer
from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    RunaiStreamerMemoryLimitException,
    S3Credentials,
    SafetensorsStreamer,
    list_safetensors,
    pull_files,
)
from runai_model_streamer.errors import ArgumentError, NotFoundError
from runai_model_streamer.testing import StreamerPatcher
from tests.checkpoints import raw, stored, write

WEIGHTS = {"a": stored("F32", [3]), "b": stored("BF16", [5])}


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "gpt2" / "sub").mkdir(parents=True)
    write(tmp_path / "gpt2" / "model.safetensors", WEIGHTS)
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    (tmp_path / "gpt2" / "sub" / "vocab.json").write_text("[]")
    return tmp_path


@pytest.fixture
def patcher(bucket: Path) -> StreamerPatcher:
    return StreamerPatcher(str(bucket))


@pytest.mark.parametrize(
    "url",
    [
        "s3://any/gpt2/",
        "s3://other/gpt2",
        "gs://any/gpt2",
        "az://any/gpt2",
        "https://any.example.com/gpt2",
        "https://account.blob.core.windows.net/gpt2",
        "hf://org/model@main/gpt2",
        "S3://a/gpt2",
    ],
)
def test_a_url_is_listed_as_urls(patcher: StreamerPatcher, url: str) -> None:
    assert patcher.shim_list_safetensors(url) == [f"{url.rstrip('/')}/model.safetensors"]
    assert patcher.shim_list_safetensors(path=url, s3_credentials=S3Credentials()) != []


def test_a_bucket_itself_is_the_folder(bucket: Path) -> None:
    for url in ("s3://any", "s3://any/"):
        assert StreamerPatcher(bucket / "gpt2").shim_list_safetensors(url) == ["s3://any/model.safetensors"]


def test_a_local_folder_is_listed_as_it_is(patcher: StreamerPatcher, bucket: Path) -> None:
    folder = str(bucket / "gpt2")
    assert patcher.shim_list_safetensors(folder) == list_safetensors(folder)


def test_what_is_missing_is_missing(patcher: StreamerPatcher) -> None:
    with pytest.raises(NotFoundError):
        patcher.shim_list_safetensors("s3://any/other")


def test_files_are_pulled_by_patterns(patcher: StreamerPatcher, tmp_path: Path) -> None:
    target = tmp_path / "target"
    patcher.shim_pull_files("s3://any/gpt2/", str(target), ["*.json"], ["sub/*"])
    assert [path.name for path in target.iterdir()] == ["config.json"]
    patcher.shim_pull_files(model_path="s3://any/gpt2", dst=str(target), s3_credentials=None)
    assert (target / "sub" / "vocab.json").read_text() == "[]"


def test_a_streamer_reads_urls_from_the_folder(patcher: StreamerPatcher) -> None:
    with patcher.create_mock_streamer("any", arguments=True) as streamer:
        streamer.stream_file("s3://any/gpt2/model.safetensors", None, "cpu")
        once = {name: raw(tensor) for name, tensor in streamer.get_tensors()}
        streamer.stream_files(patcher.shim_list_safetensors("s3://any/gpt2"), device="cpu", is_distributed=False)
        assert sum(len(found) for found in streamer.files_to_tensors_metadata.values()) == 2
        again = {name: raw(tensor) for name, tensor in streamer.get_tensors()}
    assert once == again == {name: value.data for name, value in WEIGHTS.items()}


@pytest.mark.parametrize("bucket_url", ["az://any", "gs://any", "http://any:8000", "hf://org/model"])
def test_urls_of_any_store_are_listed_pulled_and_read(
    patcher: StreamerPatcher, bucket_url: str, tmp_path: Path
) -> None:
    patcher.shim_pull_files(f"{bucket_url}/gpt2", tmp_path / "pulled", ["*.json"])
    assert (tmp_path / "pulled" / "config.json").read_text() == "{}"
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_files(patcher.shim_list_safetensors(f"{bucket_url}/gpt2"))
        assert {name: raw(tensor) for name, tensor in streamer.get_tensors()} == {
            name: value.data for name, value in WEIGHTS.items()
        }


def test_the_query_of_a_signed_link_is_no_part_of_the_file(patcher: StreamerPatcher, bucket: Path) -> None:
    assert patcher.local("https://any/gpt2/model.safetensors?sig=1") == str(bucket / "gpt2" / "model.safetensors")


def test_a_streamer_of_the_stand_in_is_one(patcher: StreamerPatcher, bucket: Path) -> None:
    with patcher.create_mock_streamer() as streamer:
        assert isinstance(streamer, SafetensorsStreamer)
        streamer.stream_file(bucket / "gpt2" / "model.safetensors")
        assert isinstance(dict(streamer.get_tensors())["a"], torch.Tensor)
        with pytest.raises(NotFoundError):
            streamer.stream_file("s3://any/gpt2/missing.safetensors")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("distributed_streamer", {"DistributedStreamer": DistributedStreamer}),
        ("distributed_streamer.distributed_streamer", {"DistributedStreamer": DistributedStreamer}),
        ("file_streamer", {"FileStreamer": FileStreamer, "FileChunks": FileChunks}),
        (
            "file_streamer.file_streamer",
            {"FileStreamer": FileStreamer, "RunaiStreamerInvalidInputException": ArgumentError},
        ),
        (
            "file_streamer.requests_iterator",
            {
                "FileChunks": FileChunks,
                "RunaiStreamerMemoryLimitException": RunaiStreamerMemoryLimitException,
            },
        ),
        ("s3_utils.s3_utils", {"S3Credentials": S3Credentials}),
        ("safetensors_streamer.streamer_mock", {"StreamerPatcher": StreamerPatcher}),
        (
            "safetensors_streamer.safetensors_streamer",
            {
                "SafetensorsStreamer": SafetensorsStreamer,
                "ObjectStorageModel": ObjectStorageModel,
                "list_safetensors": list_safetensors,
                "pull_files": pull_files,
            },
        ),
    ],
)
def test_the_originals_import_paths_lead_to_the_same_things(module: str, names: dict[str, object]) -> None:
    found = importlib.import_module(f"{runai_model_streamer.__name__}.{module}")
    assert {name: getattr(found, name) for name in names} == names
