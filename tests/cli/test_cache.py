"""`runai-streamer cache`."""

import os
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerConfig
from runai_model_streamer.config import CacheConfig, LoadConfig
from runai_model_streamer.io.storage import Storage
from tests.checkpoints import encode, stored
from tests.cli.conftest import Command
from tests.servers import FaultServer

pytest.importorskip("awscrt", reason="the extra [verify] is not installed")

DATA = encode({"t": stored("F32", [700, 800])})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nvme"
    folder.mkdir()
    monkeypatch.setenv("RUNAI_STREAMER_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def urls(folder: Path) -> list[str]:
    """Two objects that were loaded, the second one last."""
    with FaultServer() as server:
        urls = []
        for name in ("one", "two"):
            server.put("models", name, DATA)
            urls.append(f"{server.endpoint}/models/{name}")
            with SafetensorsStreamer(StreamerConfig(cache_size="1GB")) as streamer:  # however full the disk is
                streamer.stream_file(f"{urls[-1]}?sig=SECRET")
                assert len(list(streamer.get_tensors())) == 1
    for number, path in enumerate(sorted(folder.rglob("*.index"), key=lambda path: b"/one" in path.read_bytes())):
        os.utime(path, (1000 - number, 1000 - number))
    return urls


def damage(folder: Path) -> None:
    data = max(folder.rglob("*.data"))
    with data.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))


def test_what_is_there_is_listed_the_last_used_first(streamer: Command, folder: Path, urls: list[str]) -> None:
    done = streamer("cache", "ls")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["SIZE", "THERE", "DISK", "USED", "VERSION", "OBJECT"]
    assert [line.split()[-1] for line in lines[1:3]] == urls[::-1]
    assert all("100%" in line and "d ago" in line for line in lines[1:3])
    assert lines[3].startswith("2 objects, ")
    assert "SECRET" not in done.out


def test_an_object_that_a_load_uses_is_listed_as_such(streamer: Command, folder: Path, urls: list[str]) -> None:
    config = LoadConfig(cache=CacheConfig(str(folder), offline=True))
    storage = Storage(config, None, shared=False)
    source = storage.open(urls[0])
    listed = streamer("cache", "ls", "--json").document["objects"]
    assert {each["url"]: each["in_use"] for each in listed} == {urls[0]: True, urls[1]: False}
    assert streamer("cache", "prune", "--all", "--json").document["removed"][0]["url"] == urls[1]
    source.close()
    storage.close()
    assert [each["url"] for each in streamer("cache", "ls", "--json").document["objects"]] == [urls[0]]


def test_json_has_the_bytes_of_each_object(streamer: Command, folder: Path, urls: list[str]) -> None:
    first = streamer("cache", "ls", "--json").document["objects"][0]
    assert first["url"] == urls[1]
    assert first["bytes"] == first["bytes_there"] == len(DATA)
    assert first["bytes_on_disk"] >= len(DATA)


def test_a_cache_that_is_right_is_verified(streamer: Command, urls: list[str]) -> None:
    done = streamer("cache", "verify")
    assert done.code == 0
    assert done.out.splitlines()[-1].endswith("compared: none is damaged")


def test_damage_is_found_and_removed(streamer: Command, folder: Path, urls: list[str]) -> None:
    damage(folder)
    done = streamer("cache", "verify")
    assert done.code == 1
    assert any(line.startswith("FAILED") and "damaged, and removed" in line for line in done.out.splitlines())
    assert streamer("cache", "verify").code == 0
    there = [each["bytes_there"] for each in streamer("cache", "ls", "--json").document["objects"]]
    assert min(there) < len(DATA) == max(there)


def test_damage_is_in_the_json(streamer: Command, folder: Path, urls: list[str]) -> None:
    damage(folder)
    document = streamer("cache", "verify", "--json").document
    assert document["ok"] is False
    (found,) = (each["damaged"] for each in document["objects"] if each["damaged"])
    assert found[0][0] <= 1_000_000 < found[0][1]


def test_pruning_removes_what_was_used_longest_ago(streamer: Command, folder: Path, urls: list[str]) -> None:
    done = streamer("cache", "prune", "--size", str(len(DATA) * 3 // 2))
    assert done.code == 0
    assert urls[0] in done.out.splitlines()[0]
    assert done.out.splitlines()[-1].startswith("1 object removed, ")
    assert [each["url"] for each in streamer("cache", "ls", "--json").document["objects"]] == [urls[1]]


def test_pruning_by_days_keeps_what_was_used_since(streamer: Command, folder: Path, urls: list[str]) -> None:
    os.utime(next(path for path in folder.rglob("*.index") if b"/two" in path.read_bytes()))
    assert streamer("cache", "prune", "--days", "30").code == 0
    assert [each["url"] for each in streamer("cache", "ls", "--json").document["objects"]] == [urls[1]]


def test_pruning_needs_to_know_how_much(streamer: Command, urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = streamer("cache", "prune")
    assert done.code == 1
    assert "give --size, --days or --all" in done.err
    monkeypatch.setenv("RUNAI_STREAMER_CACHE_SIZE", "1GB")
    assert streamer("cache", "prune").out == "0 objects removed, 0 bytes freed\n"


def test_without_a_folder_there_is_no_cache(streamer: Command, tmp_path: Path) -> None:
    assert "there is no cache: set RUNAI_STREAMER_CACHE_DIR" in streamer("cache", "ls").err
    done = streamer("cache", "ls", "--folder", tmp_path / "missing")
    assert (done.code, done.err) == (1, f"error: {tmp_path}/missing: no such folder\n")
    assert streamer("cache", "ls", "--folder", tmp_path).out == f"0 objects, 0 bytes on the disk, in {tmp_path}\n"


def test_a_limit_is_for_pruning_only(streamer: Command, urls: list[str]) -> None:
    assert streamer("cache", "ls", "--all").code == 1
