"""Released vLLM and SGLang: their own functions, cut out of their wheels, stream and pull with this package.

`make test-releases` fetches the wheels; without them these tests skip.
"""

import __future__

import ast
import contextlib
import hashlib
import inspect
import json
import logging
import os
import posixpath
import shutil
import tempfile
import types
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch

import runai_model_streamer
from tests.checkpoints import raw, stored, write
from tests.engines.releases import RELEASES, Release
from tests.servers import FaultServer

SOURCES: Final = "ENGINE_SOURCES"
"""Environment variable: the folder that `tests.engines.releases` has filled."""

URL: Final = "s3://models/org/llama"
SHARDS: Final = {
    "model-00001-of-00003.safetensors": {"layers.0.w": stored("BF16", [4, 8]), "layers.0.b": stored("F32", [])},
    "model-00002-of-00003.safetensors": {"layers.1.w": stored("BF16", [4, 8]), "empty": stored("F16", [0, 3])},
    "model-00003-of-00003.safetensors": {"mtp.w": stored("F8_E4M3", [16]), "mtp.b": stored("I64", [2])},
}
OTHER_FILES: Final = {"config.json": b"{}", "tokenizer/vocab.json": b"[]"}
WEIGHTS: Final = ["*.pt", "*.safetensors", "*.bin", "*.tensors", "*.pth"]


@pytest.fixture(params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    if not folder_of(found).is_dir():
        pytest.skip(f"no sources of {found}: make test-releases")
    return found


def folder_of(release: Release) -> Path:
    return Path(os.environ.get(SOURCES) or "/nonexistent", str(release))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    for name, tensors in SHARDS.items():
        write(folder / name, tensors)
    index = {"weight_map": {tensor: name for name, tensors in SHARDS.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, data in OTHER_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[FaultServer]:
    with FaultServer() as server:
        for path in model.rglob("*"):
            if path.is_file():
                server.put("models", f"org/llama/{path.relative_to(model)}", path.read_bytes())
        yield server


@pytest.fixture(params=["disk", URL])
def path(request: pytest.FixtureRequest, model: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return str(model) if request.param == "disk" else URL


def surroundings(cache: Path) -> dict[str, Any]:
    """What the engines' modules import and define around the functions."""
    platform = types.SimpleNamespace(is_cuda_alike=lambda: False)
    cache_setting = types.SimpleNamespace(get=lambda: str(cache))
    return {
        "BAR_FORMAT": None,
        "_BAR_FORMAT": None,
        "Path": Path,
        "RUNAI_STREAMER_TENSOR_ATTR": "_runai_streamer",
        "SAFE_WEIGHTS_INDEX_NAME": "model.safetensors.index.json",
        "SafetensorsStreamer": runai_model_streamer.SafetensorsStreamer,
        "current_platform": platform,
        "enable_tqdm": lambda use: use,
        "envs": types.SimpleNamespace(VLLM_ASSETS_CACHE_MODEL_CLEAN=False, SGLANG_CACHE_DIR=cache_setting),
        "get_cache_dir": lambda: str(cache),
        "hashlib": hashlib,
        "is_cuda_alike": lambda: False,
        "json": json,
        "logger": logging.getLogger("engine"),
        "os": os,
        "posixpath": posixpath,
        "runai_list_safetensors": runai_model_streamer.list_safetensors,
        "runai_pull_files": runai_model_streamer.pull_files,
        "RunaiObjectStorageModel": runai_model_streamer.ObjectStorageModel,
        "shutil": shutil,
        # Of the test's process they stay as they are.
        "signal": types.SimpleNamespace(SIGINT=2, SIGTERM=15, getsignal=lambda _: None, signal=lambda *_: None),
        "tempfile": tempfile,
        "torch": torch,
        "tqdm": lambda items, **_: items,
        "urlsplit": urllib.parse.urlsplit,
    }


def cut(release: Release, module: str, cache: Path, *names: str) -> dict[str, Any]:
    """Run the definitions of these names of a module, and its constants, in a namespace."""
    found = sorted(folder_of(release).glob(f"{release.engine}/**/{module}.py"))
    # SGLang has a second loader, for diffusion models.
    (source,) = [each for each in found if "multimodal_gen" not in each.parts]
    body = [
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if getattr(node, "name", None) in names
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SUPPORTED_SCHEMES")
    ]
    assert {getattr(node, "name", None) for node in body} >= set(names)
    # Annotations name types of the engine, and stay text.
    flags = __future__.annotations.compiler_flag
    space = surroundings(cache)
    exec(compile(ast.Module(body, []), str(source), "exec", flags=flags), space)
    return space


def iterator_of(release: Release, cache: Path) -> Callable[..., Iterator[tuple[str, torch.Tensor]]]:
    """`runai_safetensors_weights_iterator`, without the argument that says whether to draw a bar."""
    name = "runai_safetensors_weights_iterator"
    found = cut(release, "weight_utils", cache, name)[name]
    if "use_tqdm_on_load" not in inspect.signature(found).parameters:
        return found  # type: ignore[no-any-return]
    return lambda files, **arguments: found(files, False, **arguments)


def assert_whole(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    wanted = {name: value for shard in SHARDS.values() for name, value in shard.items()}
    found = dict(tensors)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (list(found[name].shape), raw(found[name])) == (list(value.shape), value.data)


def test_its_iterator_streams_the_model(release: Release, path: str, tmp_path: Path) -> None:
    files = runai_model_streamer.list_safetensors(path)
    assert_whole(iterator_of(release, tmp_path)(files))


def test_its_distributed_iterator_streams_without_a_group(release: Release, path: str, tmp_path: Path) -> None:
    source = next(each for each in folder_of(release).rglob("weight_utils.py") if "multimodal_gen" not in each.parts)
    if "is_distributed" not in source.read_text(encoding="utf-8"):
        pytest.skip("this release knows no distributed streaming")
    files = runai_model_streamer.list_safetensors(path)
    assert_whole(iterator_of(release, tmp_path)(files, is_distributed=True))


def test_it_lists_and_pulls_all_but_the_weights(release: Release, path: str, tmp_path: Path) -> None:
    if not list(folder_of(release).rglob("runai_utils.py")):
        pytest.skip("this release has another module for that")
    space = cut(release, "runai_utils", tmp_path, "list_safetensors", "is_runai_obj_uri", "ObjectStorageModel")
    assert space["is_runai_obj_uri"](path) is (path == URL)
    assert [posixpath.basename(file) for file in space["list_safetensors"](path)] == list(SHARDS)
    if path != URL:
        return
    model = space["ObjectStorageModel"]
    if release.engine == "sglang":
        folder = model.download_and_get_path(URL)
        assert folder == model.download_and_get_path(URL) == model.get_path(URL)
    else:
        pulled = model(url=URL) if "url" in inspect.signature(model).parameters else model()
        with pulled if hasattr(pulled, "__exit__") else contextlib.nullcontext():
            arguments = [URL] if "model_path" in inspect.signature(pulled.pull_files).parameters else []
            pulled.pull_files(*arguments, allow_pattern=["*.model", "*.py", "*.json"])
            pulled.pull_files(*arguments, ignore_pattern=WEIGHTS)
        folder = pulled.dir
    found = {str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file()}
    assert found - {".runai_complete"} == {*OTHER_FILES, "model.safetensors.index.json"}


def test_its_draft_model_reads_the_shards_of_its_own_alone(release: Release, path: str, tmp_path: Path) -> None:
    sources = list(folder_of(release).rglob("runai_streamer_loader.py"))
    names = ("_get_remote_checkpoint_keys", "_filter_remote_weights")
    if path != URL or not any(names[0] in source.read_text(encoding="utf-8") for source in sources):
        pytest.skip("this release does not look into the shards of a draft model")
    keep = cut(release, "runai_streamer_loader", tmp_path, *names)["_filter_remote_weights"]
    files = runai_model_streamer.list_safetensors(URL)
    assert keep(files, URL, lambda name: not name.startswith("mtp.")) == files[2:]
