"""What vLLM and SGLang do with this package, call for call, with a real model, from disk and from S3.

Written from their public source: vLLM's `runai_streamer_loader`, `weight_utils` and `runai_utils`, of several releases,
and SGLang's `loader` and `runai_utils`. Here they are as short as the calls allow.
"""

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import safetensors.torch
import torch

# As vLLM imports them, at the head of its modules.
from runai_model_streamer import ObjectStorageModel as RunaiObjectStorageModel
from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer import list_safetensors as runai_list_safetensors
from runai_model_streamer import pull_files as runai_pull_files
from runai_model_streamer.safetensors_streamer.streamer_mock import StreamerPatcher
from tests.checkpoints import raw
from tests.servers import FaultServer

WEIGHTS_PATTERNS = ["*.pt", "*.safetensors", "*.bin", "*.tensors", "*.pth"]
PREFIX = "s3://models/org/minilm"


@pytest.fixture(scope="module")
def model(minilm: Path) -> Path:
    return minilm


@pytest.fixture(scope="module")
def theirs(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model / "model.safetensors")


@pytest.fixture(scope="module")
def endpoint(model: Path) -> Iterator[str]:
    """An S3 server that holds the model, all of its files."""
    with FaultServer() as server:
        for path in model.rglob("*"):
            if path.is_file():
                server.put("models", f"org/minilm/{path.relative_to(model)}", path.read_bytes())
        # Prefixes that must not be taken for the model's.
        server.put("models", "org/minilm2/model.safetensors", b"other")
        server.put("models", "org/minilm/", b"")
        yield server.endpoint


@pytest.fixture(params=["disk", PREFIX, f"{PREFIX}/"])
def path(request: pytest.FixtureRequest, model: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a user gives the engine for a model."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        # The engine sets these in the process; here so that they are put back.
        "RUNAI_STREAMER_S3_ENDPOINT": "",
        "RUNAI_STREAMER_CONCURRENCY": "",
        "RUNAI_STREAMER_MEMORY_LIMIT": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RUNAI_STREAMER_S3_ENDPOINT")
    return str(model) if request.param == "disk" else str(request.param)


class VllmLoader:
    """vLLM's loader: settings go into the environment long after the import, then files are listed and streamed."""

    list_safetensors: Callable[..., list[str]] = staticmethod(runai_list_safetensors)
    make_streamer: Callable[[], SafetensorsStreamer] = SafetensorsStreamer

    def __init__(self, extra_config: dict[str, int]) -> None:
        if isinstance(concurrency := extra_config.get("concurrency"), int):
            os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(concurrency)
        if isinstance(memory_limit := extra_config.get("memory_limit"), int):
            os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = str(memory_limit)
        endpoint = os.getenv("AWS_ENDPOINT_URL")
        if os.getenv("RUNAI_STREAMER_S3_ENDPOINT") is None and endpoint is not None:
            os.environ["RUNAI_STREAMER_S3_ENDPOINT"] = endpoint

    def weights(self, model_or_path: str) -> Iterator[tuple[str, torch.Tensor]]:
        files = self.list_safetensors(model_or_path)
        if not files:
            raise RuntimeError(f"Cannot find any safetensors model weights with `{model_or_path}`")
        with self.make_streamer() as streamer:
            streamer.stream_files(files, device="cpu", is_distributed=False)
            total = sum(len(found) for found in streamer.files_to_tensors_metadata.values())
            seen = 0
            for item in streamer.get_tensors():
                seen += 1
                yield item
            assert seen == total


class VllmStorageModel:
    """vLLM's own class of the name, around ours: its `with` statement enters only itself, but leaves both."""

    def __init__(self, url: str, cache: Path) -> None:
        name = hashlib.sha256(str(url).encode()).hexdigest()[:8]
        self._runai_obj = RunaiObjectStorageModel(model_path=url, dst=os.path.join(cache, "model_streamer", name))
        self.dir = self._runai_obj.dir

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return self._runai_obj.__exit__(kind, error, traceback)

    def pull_files(
        self, model_path: str = "", allow_pattern: list[str] | None = None, ignore_pattern: list[str] | None = None
    ) -> None:
        self._runai_obj.pull_files(allow_pattern, ignore_pattern)


def parameters(weights: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What the engine's model has afterwards: tensors are copied into parameters as they come."""
    copied = {}
    for name, tensor in weights:
        parameter = torch.empty(tensor.shape, dtype=tensor.dtype)
        parameter.copy_(tensor)
        copied[name] = parameter
    return copied


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert raw(ours[name]) == raw(tensor), name


def test_vllm_loads_the_model(path: str, theirs: dict[str, torch.Tensor]) -> None:
    loader = VllmLoader({"concurrency": 4, "memory_limit": 50_000_000})
    assert_equal(parameters(loader.weights(path)), theirs)


def test_the_loaders_settings_hold_from_the_call_on(path: str) -> None:
    with pytest.raises(MemoryError, match="RUNAI_STREAMER_MEMORY_LIMIT=7"):
        list(VllmLoader({"memory_limit": 7}).weights(path))


def test_tensors_that_the_engine_clones_or_keeps_stay_as_they_are(path: str, theirs: dict[str, torch.Tensor]) -> None:
    loader = VllmLoader({"memory_limit": 50_000_000})
    kept = dict(loader.weights(path))
    cloned = {name: tensor.clone().detach() for name, tensor in loader.weights(path)}
    moved = {name: tensor.to("cpu", non_blocking=True) for name, tensor in loader.weights(path)}
    for ours in (kept, cloned, moved):
        assert_equal(ours, theirs)


def test_a_generator_that_the_engine_leaves_half_consumed_ends_with_it(path: str) -> None:
    weights = VllmLoader({}).weights(path)
    first, _ = next(weights)
    del weights
    assert next(VllmLoader({}).weights(path))[0] == first


def test_vllm_pulls_configuration_and_tokenizer(path: str, model: Path, tmp_path: Path) -> None:
    with VllmStorageModel(path, tmp_path) as storage:
        storage.pull_files(path, allow_pattern=["*.model", "*.py", "*.json"])
        storage.pull_files(path, ignore_pattern=WEIGHTS_PATTERNS)
    pulled = {str(file.relative_to(storage.dir)) for file in Path(storage.dir).rglob("*") if file.is_file()}
    expected = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert pulled - {".runai_complete"} == expected - {"model.safetensors"}
    assert (Path(storage.dir) / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_vllm_of_earlier_releases_and_sglang_pull_with_the_function(path: str, model: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "cache")
    for _ in range(2):
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target, exist_ok=True)
        runai_pull_files(path if path.endswith("/") else f"{path}/", target, None, WEIGHTS_PATTERNS)
    assert (tmp_path / "cache" / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert (tmp_path / "cache" / "1_Pooling" / "config.json").exists()
    assert not (tmp_path / "cache" / "model.safetensors").exists()


def test_vllms_own_tests_run_with_the_stand_in(
    model: Path, tmp_path: Path, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = StreamerPatcher(str(model.parent))
    monkeypatch.setattr(VllmLoader, "list_safetensors", patcher.shim_list_safetensors)
    monkeypatch.setattr(VllmLoader, "make_streamer", patcher.create_mock_streamer)
    url = f"s3://my-mock-bucket/{model.name}/"
    assert_equal(parameters(VllmLoader({}).weights(url)), theirs)
    patcher.shim_pull_files(url, str(tmp_path / "pulled"), ["*.json"], None)
    assert (tmp_path / "pulled" / "config.json").exists()


def _load_in_worker(path: str, expected: int) -> None:
    # OpenMP's threads do not survive a fork: with more than one, torch's own copies would wait for them for ever.
    torch.set_num_threads(1)
    assert len(parameters(VllmLoader({"concurrency": 2}).weights(path))) == expected


def _use(streamer: SafetensorsStreamer, path: str) -> None:
    with pytest.raises(RuntimeError, match=r"made before a fork.*make a new one here"):
        streamer.stream_file(path)
    with SafetensorsStreamer() as new:
        new.stream_file(path)
        next(iter(new.get_tensors()))


@pytest.mark.parametrize("path", ["disk", PREFIX], indirect=True)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_load_the_model(method: str, path: str, theirs: dict[str, torch.Tensor]) -> None:
    # The parent has streamed before: nothing of that may be in the children's way.
    list(VllmLoader({}).weights(path))
    workers: Any = multiprocessing.get_context(method)
    started = [workers.Process(target=_load_in_worker, args=(path, len(theirs))) for _ in range(2)]
    for worker in started:
        worker.start()
    for worker in started:
        worker.join(120)
    assert [worker.exitcode for worker in started] == [0, 0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_streamer_handed_to_a_worker_is_refused_there_and_a_new_one_works(method: str, model: Path) -> None:
    with SafetensorsStreamer() as streamer:
        weights = str(model / "model.safetensors")
        processes: Any = multiprocessing.get_context(method)
        worker = processes.Process(target=_use, args=(streamer, weights))
        worker.start()
        worker.join(120)
        assert worker.exitcode == 0
