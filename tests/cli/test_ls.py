"""`runai-streamer ls`."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.io.objects.source import PREFIX_BYTES
from tests.checkpoints import encode, numbered, stored, write
from tests.cli.conftest import Command
from tests.servers import FaultServer, refuse


def test_a_folder_is_summed_up_by_file(streamer: Command, model: Path) -> None:
    done = streamer("ls", model)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["SIZE", "TENSORS", "DTYPES", "FILE"]
    assert lines[1].split() == ["60.6", "kB", "2", "BF16", "1,", "F32", "1", str(model / "model-1.safetensors")]
    assert lines[2].split()[-1] == str(model / "model-2.safetensors")
    assert lines[3] == "2 files, 121 kB, 3 tensors, 60,100 elements"


INDEX = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}'


def test_a_shard_that_the_index_names_and_is_missing_is_an_error(streamer: Command, model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(INDEX)
    done = streamer("ls", model)
    assert done.code == 1
    assert len(done.out.splitlines()) == 4
    missing = f"error: {model}/model-3.safetensors: is not there, and model.safetensors.index.json names it"
    assert done.err.splitlines() == [missing]


def test_tensors_that_are_there_twice_are_said(streamer: Command, model: Path) -> None:
    first = {"embed": stored("BF16", [300, 100]), "norm": stored("F32", [100])}
    write(model / "consolidated.safetensors", first)
    done = streamer("ls", model)
    assert done.code == 0
    assert "warning: 2 tensors in more than one file: embed is in " in done.err
    (model / "model.safetensors.index.json").write_text(INDEX.replace(', "c": "model-3.safetensors"', ""))
    done = streamer("ls", model)
    assert "in more than one file" not in done.err
    assert "does not name consolidated.safetensors: left out" in done.err
    assert "2 files, " in done.out


def test_every_tensor_can_be_listed(streamer: Command, model: Path) -> None:
    done = streamer("ls", "--tensors", model / "model-1.safetensors")
    assert done.out.splitlines() == [
        f"{model / 'model-1.safetensors'}: 60.6 kB, 2 tensors, 30,100 elements",
        "DTYPE  SHAPE            SIZE  TENSOR",
        "BF16   [300, 100]    60.0 kB  embed",
        "F32    [100]       400 bytes  norm",
    ]


def test_json_has_bytes_and_with_tensors_every_one(streamer: Command, model: Path) -> None:
    document = streamer("ls", "--json", "--tensors", model).document
    assert (document["tensor_count"], document["errors"]) == (3, [])
    first = document["files"][0]
    assert first["bytes"] == (model / "model-1.safetensors").stat().st_size
    assert first["dtypes"] == {
        "BF16": {"tensor_count": 1, "bytes": 60000},
        "F32": {"tensor_count": 1, "bytes": 400},
    }
    start = first["tensors"][0]["offset"]
    assert first["tensors"][1] == {
        "name": "norm",
        "dtype": "F32",
        "shape": [100],
        "bytes": 400,
        "offset": start + 60000,
    }
    assert "tensors" not in streamer("ls", "--json", model).document["files"][0]


def test_a_prefix_is_listed_without_its_data(streamer: Command, server: FaultServer) -> None:
    big = encode({"big": stored("U8", [3 * PREFIX_BYTES])})
    server.put("big", "m/big.safetensors", big)
    done = streamer("ls", "s3://big/m")
    assert done.out.splitlines()[1].split()[-1] == "s3://big/m/big.safetensors"
    assert server.bytes_served <= PREFIX_BYTES


def test_objects_may_be_named_one_by_one_whatever_their_names(streamer: Command, server: FaultServer) -> None:
    server.put("models", "llama/weights", encode(numbered([8])))
    done = streamer("ls", "s3://models/llama/model-1.safetensors", "s3://models/llama/weights")
    assert [line.split()[-1] for line in done.out.splitlines()[1:3]] == [
        "s3://models/llama/model-1.safetensors",
        "s3://models/llama/weights",
    ]


def test_a_broken_file_is_told_and_the_others_are_listed(streamer: Command, model: Path) -> None:
    (model / "broken.safetensors").write_bytes(b"<html>")
    done = streamer("ls", model)
    assert done.code == 1
    assert "broken.safetensors is not a safetensors file" in done.err
    assert done.out.splitlines()[-1].startswith("2 files, ")
    document = streamer("ls", "--json", model).document
    assert len(document["files"]) == 2
    (error,) = document["errors"]
    assert error["path"] == str(model / "broken.safetensors")
    assert error["message"] == f"{error['path']} {error['problem']}: {error['remedy']}"


def test_an_error_in_json_has_each_part_or_null(streamer: Command, tmp_path: Path) -> None:
    path = tmp_path / "nothing.safetensors"
    assert streamer("ls", "--json", path).document["error"] == {
        "type": "NotFoundError",
        "message": f"{path}: no such file",
        "problem": "no such file",
        "path": str(path),
        "bytes": None,
        "tensor": None,
        "remedy": None,
    }


def test_an_error_in_json_has_the_bytes_that_could_not_be_read(streamer: Command, server: FaultServer) -> None:
    server.choose = lambda request: refuse(403, "AccessDenied")
    error = streamer("load", "--json", "s3://models/llama/model-1.safetensors").document["error"]
    assert (error["path"], error["bytes"]) == ("s3://models/llama/model-1.safetensors", [0, 262144])
    assert "Grant these credentials s3:GetObject" in error["remedy"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nothing.safetensors", "no such file"),
        ("empty", "has no safetensors file (folders below it are not looked into)"),
        ("s3://models/llama/nothing.safetensors", "no such object"),
        ("s3://models/nothing", "no key that begins with"),
        ("s3://models/nothing/", "no key that begins with"),
        ("s3://models/empty", "has no safetensors file"),
        ("ftp://host/model", "ftp:// URLs are not supported"),
    ],
)
def test_what_is_not_there_is_one_line_of_error(
    streamer: Command, server: FaultServer, tmp_path: Path, path: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    server.put("models", "empty/config.json", b"{}")
    done = streamer("ls", path if "://" in path else tmp_path / path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert told in done.err
    assert done.err.count("\n") == 1


def test_a_bucket_that_refuses_is_told_without_secrets(streamer: Command, server: FaultServer) -> None:
    server.choose = lambda request: refuse(403, "AccessDenied")
    done = streamer("ls", "--json", "s3://models/llama")
    assert done.code == 1
    assert done.document["error"]["type"] == "AccessDeniedError"
    assert "planted" not in done.everything


def test_names_of_tensors_cannot_write_to_the_terminal(streamer: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"x\x1b[2J\nfake": stored("U8", [1])})
    done = streamer("ls", "--tensors", path)
    assert "x\\x1b[2J\\nfake" in done.out
    assert "\x1b" not in done.out
    assert streamer("ls", "--tensors", "--json", path).document["files"][0]["tensors"][0]["name"] == "x\x1b[2J\nfake"


def test_a_path_that_is_no_unicode_is_listed(streamer: Command, model: Path) -> None:
    (model / "model-1.safetensors").rename(model / "a\udcff.safetensors")
    assert "a\\udcff.safetensors" in streamer("ls", model).out
    assert streamer("ls", "--json", model).document["files"][0]["path"].endswith("a\udcff.safetensors")


def test_files_and_tensors_can_be_sorted(streamer: Command, model: Path) -> None:
    write(model / "model-0.safetensors", {"z": stored("F32", [2]), "a": stored("F32", [9])})
    document = streamer("ls", "--json", "--tensors", "--sort", "size", model).document
    assert [Path(each["path"]).name[:7] for each in document["files"]] == ["model-1", "model-2", "model-0"]
    assert [each["name"] for each in document["files"][2]["tensors"]] == ["a", "z"]
    document = streamer("ls", "--json", "--tensors", "--sort", "name", model).document
    assert [Path(each["path"]).name[:7] for each in document["files"]] == ["model-0", "model-1", "model-2"]
    assert [each["name"] for each in document["files"][0]["tensors"]] == ["a", "z"]


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "other.safetensors.index.json"])
def test_an_index_means_the_files_that_it_names(streamer: Command, model: Path, index: str) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    (model / "other.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    document = streamer("ls", "--json", model / index).document
    wanted = "model-1" if index.startswith("model") else "model-2"
    assert [Path(each["path"]).name[:7] for each in document["files"]] == [wanted]


def test_an_index_that_is_not_there_is_an_error(streamer: Command, model: Path) -> None:
    done = streamer("ls", model / "model.safetensors.index.json")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {model}/model.safetensors.index.json: no such index\n"


def test_options_of_object_storage_count_for_the_call(
    streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = dict(os.environ)
    done = streamer("ls", "--endpoint-url", server.endpoint, "--no-sign-request", "s3://models/llama")
    assert (done.code, done.err) == (0, "")
    assert {request.headers.get("Authorization") for request in server.requests} == {None}
    assert dict(os.environ) == before


def test_a_profile_wins_over_keys_of_the_environment(
    streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("[two]\naws_access_key_id = AKIAOFTHEPROFILE\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    done = streamer("ls", "--profile", "two", "--region", "eu-west-9", "s3://models/llama")
    assert (done.code, done.err) == (0, "")
    assert all("AKIAOFTHEPROFILE" in request.headers["Authorization"] for request in server.requests)
    assert all("/eu-west-9/s3/" in request.headers["Authorization"] for request in server.requests)


def test_a_pattern_stands_for_the_files_that_match_it(streamer: Command, server: FaultServer, model: Path) -> None:
    write(model / "model-10.safetensors", {"other": stored("F32", [1])})
    for path in (model, f"file://{model}", "s3://models/llama"):
        done = streamer("ls", f"{path}/model-?.safetensors")
        assert (done.code, done.err) == (0, "")
        assert [line.split("/")[-1] for line in done.out.splitlines()[1:-1]] == [
            "model-1.safetensors",
            "model-2.safetensors",
        ]
    nothing = streamer("ls", model / "x*")
    assert (nothing.code, nothing.err) == (1, f"error: {model}/x*: no safetensors file matches this pattern\n")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(streamer: Command, model: Path) -> None:
    write(model / "model-[1].safetensors", {"odd": stored("F32", [1])})
    assert streamer("ls", "--json", model / "model-[1].safetensors").document["tensor_count"] == 1
