"""`runai-streamer verify`."""

from pathlib import Path

import pytest

from tests.checkpoints import stored, write
from tests.cli.conftest import Command
from tests.servers import FaultServer


def test_local_files_are_read_to_their_end(streamer: Command, model: Path) -> None:
    done = streamer("verify", model)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["ok", "ok"]
    assert "read, no checksum" in lines[0]
    assert lines[2] == "2 files, 121 kB read: none is broken"


def test_a_shard_that_the_index_names_and_is_missing_is_broken(streamer: Command, model: Path) -> None:
    index = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}'
    (model / "model.safetensors.index.json").write_text(index)
    done = streamer("verify", model)
    assert done.code == 1
    assert f"FAILED  {model}/model-3.safetensors: is not there" in done.out
    assert done.out.endswith("3 files, 121 kB read: 1 BROKEN\n")
    assert not streamer("verify", "--json", model).document["ok"]


def test_objects_are_held_against_their_checksums(streamer: Command, server: FaultServer) -> None:
    done = streamer("verify", "--json", "s3://models/llama")
    assert done.code == 0
    assert [(each["ok"], each["checksum"]) for each in done.document["files"]] == [(True, "MD5"), (True, "MD5")]


def test_a_damaged_object_is_found_and_the_others_are_verified(
    streamer: Command, server: FaultServer, model: Path
) -> None:
    data = bytearray((model / "model-1.safetensors").read_bytes())
    data[-1] ^= 1
    server.put("models", "llama/model-1.safetensors", bytes(data), f'"{"0" * 32}"')
    done = streamer("verify", "s3://models/llama")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("FAILED  s3://models/llama/model-1.safetensors: ")
    assert "do not have the checksum that the store has of them" in lines[0]
    assert lines[1].startswith("ok ")
    assert lines[2].endswith("1 BROKEN")
    first, second = streamer("verify", "--json", "s3://models/llama").document["files"]
    assert (first["ok"], second["ok"]) == (False, True)


def test_an_object_without_a_checksum_is_read_and_said_to_have_none(
    streamer: Command, server: FaultServer, model: Path
) -> None:
    server.put("models", "one/m.safetensors", (model / "model-1.safetensors").read_bytes(), '"parts-2"')
    done = streamer("verify", "s3://models/one/m.safetensors")
    assert done.code == 0
    assert "read, no checksum" in done.out
    assert done.err.startswith("warning: s3://models/one/m.safetensors: not verified")


@pytest.mark.parametrize("damage", ["cut", "longer", "header"])
def test_a_broken_file_fails(streamer: Command, model: Path, damage: str) -> None:
    path = model / "model-2.safetensors"
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "longer": data + b"x", "header": data[:8] + b"]" + data[9:]}[damage])
    done = streamer("verify", "--json", model)
    assert done.code == 1
    assert [each["ok"] for each in done.document["files"]] == [True, False]
    assert done.document["files"][1]["error"]["path"] == str(path)


def test_dtypes_that_torch_cannot_hold_are_verified(streamer: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "f6.safetensors", {"a": stored("F6_E2M3", [4]), "b": stored("F4", [64])})
    assert streamer("verify", path).code == 0


def test_a_file_without_tensors_is_whole(streamer: Command, tmp_path: Path) -> None:
    assert streamer("verify", write(tmp_path / "none.safetensors", {})).code == 0
