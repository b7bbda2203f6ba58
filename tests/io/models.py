"""The model of three shards that the tests of each store serve: made, loaded, pulled, and compared with its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch

from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, pull_files
from runai_model_streamer.cli.main import main
from runai_model_streamer.io.http.curl import libcurl
from tests.checkpoints import raw, stored, write
from tests.servers import FaultServer

SHARDS: Final = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))


def need_libcurl() -> None:
    """Skip the test where there is none."""
    try:
        libcurl.load()
    except libcurl.UnusableError as error:
        pytest.skip(f"no libcurl here: {error}")


def make_model(folder: Path) -> None:
    """Write its shards, their index and its configuration into a folder that is there."""
    weights = {}
    for number, shard in enumerate(SHARDS):
        write(folder / shard, {f"t{number}": stored("F32", [100_000 + number], seed=number)})
        weights[f"t{number}"] = shard
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def put_model(put: Callable[[str, bytes], object], folder: Path) -> None:
    """Put it below the key `llama`, with a file in a folder of its own, and another model beside it."""
    for path in folder.iterdir():
        put(f"llama/{path.name}", path.read_bytes())
    put("llama/original/model.safetensors", b"below")
    put("llama2/config.json", b"{}")


def pull_by_patterns(url: str, server: FaultServer, folder: Path, target: Path) -> None:
    """Pull it but for the folder in it, compare it, and pull again, which takes the listing alone."""
    pull_files(url, target, ignore_pattern=["llama/original/*"])
    pulled = {path.name for path in target.iterdir()}
    assert pulled == {path.name for path in folder.iterdir()}
    for name in pulled:
        assert (target / name).read_bytes() == (folder / name).read_bytes()
    server.clear()
    pull_files(url, target, ignore_pattern=["llama/original/*"])
    assert len(server.requests) == 1


def pull_for_a_node(url: str, target: Path) -> None:
    """Pull its configuration as one of a node's processes does."""
    with ObjectStorageModel(url, target) as model:
        model.pull_files(allow_pattern=["*.json"])
    assert (target / "config.json").read_text() == '{"a": 1}'


def run_commands(url: str, missing: str, target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """List, load, verify and pull it with the command. Return what `doctor` says of it, and of what is missing."""
    assert main(["ls", url]) == 0
    assert main(["load", f"{url}/{SHARDS[0]}"]) == 0
    capsys.readouterr()
    assert main(["verify", url]) == 0
    assert "MD5 matches" in capsys.readouterr().out
    assert main(["pull", url, str(target)]) == 0
    main(["doctor", url, missing])
    out = capsys.readouterr().out
    assert f"{url} answers: 6 files" in out
    return out


def loaded(paths: list[str]) -> dict[str, torch.Tensor]:
    """All tensors of the files, in memory of their own."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}


def same(found: dict[str, torch.Tensor], folder: Path) -> bool:
    """Whether these are the tensors of the folder's shards, to the bit."""
    there = loaded([str(folder / shard) for shard in SHARDS])
    return found.keys() == there.keys() and all(raw(found[name]) == raw(tensor) for name, tensor in there.items())
