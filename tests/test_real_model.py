"""A real checkpoint, MiniLM as its authors published it, from disk and from S3, against safetensors' own loader."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.checkpoints import raw
from tests.servers import moto_server

LIMITS = ["-1", "0", str(64 << 20)]
BUCKET = "models"


@pytest.fixture(scope="module")
def model(minilm: Path) -> Path:
    return minilm / "model.safetensors"


@pytest.fixture(scope="module")
def theirs(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model)


@pytest.fixture(scope="module")
def store(model: Path) -> Iterator[str]:
    """Endpoint of an S3 server that holds the model."""
    with moto_server() as server:
        server.put(BUCKET, "minilm/model.safetensors", model.read_bytes())
        yield server.endpoint


@pytest.fixture
def url(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    return f"s3://{BUCKET}/minilm/model.safetensors"


def differing(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not alike, bit for bit."""
    return [
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours
        or name not in theirs
        or (ours[name].dtype, ours[name].shape) != (theirs[name].dtype, theirs[name].shape)
        or raw(ours[name]) != raw(theirs[name])
    ]


def streamed(*paths: Path | str) -> dict[str, torch.Tensor]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        return dict(streamer.get_tensors())


def compared_as_they_come(path: Path | str, theirs: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors, each of which has been compared and dropped."""
    seen = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        for name, tensor in streamer.get_tensors():
            assert not differing({name: tensor}, {name: theirs[name]})
            seen.append(name)
    return seen


@pytest.mark.parametrize("limit", LIMITS)
def test_the_model_from_disk_is_the_same_bit_for_bit(
    limit: str, model: Path, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    assert differing(streamed(model), theirs) == []
    assert sorted(compared_as_they_come(model, theirs)) == sorted(theirs)


@pytest.mark.parametrize("direct", ["0", "1"])
def test_it_is_the_same_however_it_is_read(
    direct: str, model: Path, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIRECT_IO", direct)
    assert differing(streamed(model), theirs) == []


@pytest.mark.parametrize("limit", LIMITS)
def test_the_model_from_s3_is_the_same_bit_for_bit(
    limit: str, url: str, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    assert differing(streamed(url), theirs) == []
    assert sorted(compared_as_they_come(url, theirs)) == sorted(theirs)


def test_disk_and_s3_may_be_mixed_in_one_call(model: Path, url: str, theirs: dict[str, torch.Tensor]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([model, url, model])
        seen = [(name, raw(tensor)) for name, tensor in streamer.get_tensors()]
    assert len(seen) == 3 * len(theirs)
    once = seen[: len(theirs)]
    assert seen == once * 3
    assert dict(once) == {name: raw(tensor) for name, tensor in theirs.items()}


def test_chosen_tensors_come_from_s3_alone(url: str, theirs: dict[str, torch.Tensor]) -> None:
    names = sorted(theirs)[::10]
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(url, tensor_names=names)
        ours = dict(streamer.get_tensors())
    assert differing(ours, {name: theirs[name] for name in names}) == []
