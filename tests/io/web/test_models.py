"""Models on web servers, by everything that users call: listed by their usual names, loaded, pulled, looked at."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runai_model_streamer import ObjectStorageModel, list_safetensors, pull_files
from runai_model_streamer.cli.main import main
from runai_model_streamer.errors import ArgumentError, NotFoundError
from tests.checkpoints import stored, write
from tests.io.models import SHARDS, loaded
from tests.io.web.servers import WebServers, always
from tests.servers import refuse

OTHERS = ("config.json", "tokenizer.json", "model.safetensors.index.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {}
    for number, shard in enumerate(SHARDS):
        write(folder / shard, {f"t{number}": stored("F32", [100_000 + number])})
        weights[f"t{number}"] = shard
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("[]")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


@pytest.fixture
def url(servers: WebServers, folder: Path) -> str:
    """The model on the first server."""
    servers.origin.delete("models", "model.safetensors")
    for file in folder.iterdir():
        servers.origin.put("models", f"llama/{file.name}", file.read_bytes())
    return f"{servers.origin.endpoint}/models/llama"


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_index_tells_which_shards_make_the_model(url: str, slash: str) -> None:
    assert list_safetensors(url + slash) == [f"{url}/{shard}" for shard in SHARDS]


def test_a_model_of_one_file_is_found_by_its_usual_name(servers: WebServers) -> None:
    assert list_safetensors(f"{servers.origin.endpoint}/models") == [servers.url]


@pytest.mark.parametrize("limit", ["-1", "0", "1000000"])
def test_it_is_loaded_bit_for_bit_under_each_limit(
    url: str, folder: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    found = loaded(list_safetensors(url))
    there = loaded([str(folder / shard) for shard in SHARDS])
    assert found.keys() == there.keys()
    for name, tensor in there.items():
        assert np.array_equal(found[name].view(torch.uint8).numpy(), tensor.view(torch.uint8).numpy())


def test_a_shard_that_is_missing_is_a_warning(servers: WebServers, url: str, caplog: pytest.LogCaptureFixture) -> None:
    servers.origin.delete("models", f"llama/{SHARDS[1]}")
    assert len(list_safetensors(url)) == 2
    assert f"names files that are not there: {SHARDS[1]}" in caplog.text


def test_a_folder_with_none_of_the_names_is_not_found(servers: WebServers) -> None:
    with pytest.raises(NotFoundError, match="A web server cannot be listed"):
        list_safetensors(f"{servers.origin.endpoint}/models/other")


def test_a_folder_that_is_refused_is_no_empty_one(servers: WebServers, url: str) -> None:
    servers.origin.choose = always(refuse(403, ""))
    with pytest.raises(PermissionError, match="access denied"):
        list_safetensors(url)


def test_a_folder_with_a_query_is_an_error_that_does_not_show_it() -> None:
    with pytest.raises(ArgumentError, match="sign the URL of each file") as caught:
        list_safetensors("https://host/model?sig=planted")
    assert "planted" not in str(caught.value)


def test_files_are_pulled_by_their_patterns(url: str, folder: Path, tmp_path: Path) -> None:
    pull_files(url, tmp_path / "pulled", ignore_pattern=["*.safetensors"])
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == sorted(OTHERS)
    pull_files(url, tmp_path / "pulled")
    for file in folder.iterdir():
        assert (tmp_path / "pulled" / file.name).read_bytes() == file.read_bytes()


def test_what_is_there_is_not_pulled_again(servers: WebServers, url: str, tmp_path: Path) -> None:
    pull_files(url, tmp_path / "pulled")
    servers.origin.clear()
    pull_files(url, tmp_path / "pulled")
    assert all(request.span in ((0, 0), (0, 262143)) for request in servers.origin.requests)


def test_a_node_pulls_it_once(url: str, tmp_path: Path) -> None:
    with ObjectStorageModel(url, tmp_path / "cache") as model:
        model.pull_files(allow_pattern=["*.json"])
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".json") == sorted(OTHERS)


def test_the_command_lists_loads_verifies_and_pulls_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", url]) == 0
    assert "3 files" in capsys.readouterr().out
    assert main(["load", f"{url}/{SHARDS[0]}"]) == 0
    assert main(["verify", url]) == 0
    assert "none is broken" in capsys.readouterr().out
    assert main(["pull", url, str(tmp_path / "pulled")]) == 0
    assert "6 files" in capsys.readouterr().out


def test_the_command_shows_no_query(servers: WebServers, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    signed = f"{url}/{SHARDS[0]}?sig=planted"
    assert main(["ls", signed]) == 0
    assert main(["ls", "--json", signed]) == 0
    servers.origin.choose = always(refuse(403, ""))
    assert main(["ls", signed]) == 1
    shown = "".join(capsys.readouterr())
    assert "?***" in shown
    assert "planted" not in shown


def test_doctor_says_whether_it_answers(
    servers: WebServers, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_HTTP_TOKEN", "example.com=planted")
    main(["doctor", url, f"{url}/{SHARDS[0]}", f"{url}/none.safetensors"])
    out = capsys.readouterr().out
    assert f"{url} answers: 6 files" in out
    assert f"{url}/{SHARDS[0]} answers:" in out
    assert "has no such file (HTTP 404" in out
    assert "RUNAI_STREAMER_HTTP_TOKEN=***" in out
    assert "planted" not in out


_LOAD = """
import sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    assert sum(1 for _ in streamer.get_tensors()) == 1
optional = {"azure", "boto3", "botocore", "google", "huggingface_hub", "httpx", "httpx2", "requests"}
print(sorted(optional & {name.partition(".")[0] for name in sys.modules}))
"""


def test_a_load_imports_nothing_of_other_stores(url: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _LOAD, f"{url}/{SHARDS[0]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
