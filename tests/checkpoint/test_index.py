"""The index of a checkpoint in shards: what it names, and what of that is there."""

import json

import pytest

from runai_model_streamer.checkpoint.index import Shards, choose_index, compare, is_index, parse_index


def index(*files: object) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": {f"t{n}": file for n, file in enumerate(files)}}).encode()


def test_it_names_each_file_once() -> None:
    assert parse_index(index("b.safetensors", "a.safetensors", "b.safetensors")) == {"a.safetensors", "b.safetensors"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": []}',
        b'{"weight_map": null}',
        index(5),
        index(None),
        index("../a.safetensors"),
        index("below/a.safetensors"),
        index("a.bin"),
        b"\xff\xfe",
    ],
)
def test_what_is_no_index_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|weight_map|not a safetensors file"):
        parse_index(text)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], None),
        (["model.safetensors.index.json"], "model.safetensors.index.json"),
        (["other.safetensors.index.json"], "other.safetensors.index.json"),
        (["consolidated.safetensors.index.json", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], None),
    ],
)
def test_the_usual_index_is_chosen_or_the_only_one(names: list[str], chosen: str | None) -> None:
    assert choose_index(names) == chosen


@pytest.mark.parametrize(
    "name", ["model.safetensors", "index.json", ".model.safetensors.index.json", "a/model.safetensors.index.json"]
)
def test_other_files_are_no_index(name: str) -> None:
    assert not is_index(name)


@pytest.mark.parametrize(
    ("named", "there", "shards"),
    [
        (None, ["b", "a"], Shards(["a", "b"], [], [])),
        ({"a", "b"}, ["b", "a"], Shards(["a", "b"], [], [])),
        ({"a", "b"}, ["b", "a", "c"], Shards(["a", "b"], [], ["c"])),
        ({"a", "b"}, ["a"], Shards(["a"], ["b"], [])),
        # Which of the others take its place cannot be told.
        ({"a", "b"}, ["a", "c"], Shards(["a", "c"], ["b"], [])),
    ],
)
def test_what_is_missing_and_what_is_double_is_told(named: set[str] | None, there: list[str], shards: Shards) -> None:
    assert compare(named, there) == shards
