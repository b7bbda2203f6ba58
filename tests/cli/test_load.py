"""`runai-streamer load`."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.servers import FaultServer


def lines(out: str) -> dict[str, str]:
    """The first word of each line -> the rest."""
    return {line.split(" ", 1)[0]: line.split(" ", 1)[-1].strip() for line in out.splitlines()}


@pytest.mark.parametrize("source", ["local", "s3"])
def test_the_report_and_its_verdict_are_told(
    streamer: Command, model: Path, request: pytest.FixtureRequest, source: str
) -> None:
    if source == "s3":
        request.getfixturevalue("server")
    done = streamer("load", "s3://models/llama/" if source == "s3" else model)
    assert (done.code, done.err) == (0, "")
    told = lines(done.out)
    assert told["loaded"].startswith("120 kB, 3 tensors of 2 files, to cpu in ")
    assert "B/s, first tensor after" in told["speed"]
    assert f"up to {400 if source == 's3' else 16} reads at once, chunk 8MiB" in told["settings"]
    assert told["verdict"]


def test_json_is_the_report(streamer: Command, model: Path) -> None:
    document = streamer("load", "--json", model / "model-1.safetensors", model / "model-2.safetensors").document
    assert (document["outcome"], document["files"], document["tensors"], document["bytes"]) == (
        "complete",
        2,
        3,
        120400,
    )


def test_options_are_settings_of_this_load_only(streamer: Command, model: Path) -> None:
    before = dict(os.environ)
    settings = streamer(
        "load", "--json", "--limit", "1M", "--concurrency", "3", "--chunk", "6M", "--dtype", "f32", model
    ).document["settings"]
    assert (settings["concurrency"], settings["chunk_bytesize"], settings["memory_limit"], settings["dtype"]) == (
        3,
        6 << 20,
        1 << 20,
        "torch.float32",
    )
    assert dict(os.environ) == before


def test_a_timeline_can_be_written(streamer: Command, model: Path, tmp_path: Path) -> None:
    assert streamer("load", "--trace", tmp_path / "trace.json", model).code == 0
    assert json.loads((tmp_path / "trace.json").read_text())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--limit", "100"], "more than --limit=100; set it to 60000 or more"),
        (["--device", "abacus"], "'abacus' is unknown to torch"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_of_error(
    streamer: Command, model: Path, options: list[str], told: str
) -> None:
    done = streamer("load", *options, model)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert told in done.err
    assert done.err.count("\n") == 1


def test_an_object_that_is_cut_off_while_it_is_read_is_told(streamer: Command, server: FaultServer) -> None:
    server.put("models", "llama/model-2.safetensors", b"\x10")
    done = streamer("load", "--json", "s3://models/llama")
    assert (done.code, done.document["error"]["type"]) == (1, "HeaderError")


def test_only_tensors_that_match_are_loaded(streamer: Command, model: Path) -> None:
    document = streamer("load", "--json", "--tensors", "emb*", "--tensors", "he?d", model).document
    assert document["tensors"] == 2


def test_patterns_that_match_no_tensor_are_an_error(streamer: Command, model: Path) -> None:
    done = streamer("load", "--tensors", "nothing.*", model)
    assert (done.code, done.out) == (1, "")
    assert "error: no tensor has a name like 'nothing.*'; ls --tensors lists the names" in done.err
