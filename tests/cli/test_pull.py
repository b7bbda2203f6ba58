"""`runai-streamer pull`."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.servers import FaultServer, refuse


def test_a_prefix_is_copied_and_not_again(streamer: Command, server: FaultServer, model: Path, tmp_path: Path) -> None:
    done = streamer("pull", "s3://models/llama", tmp_path / "copy")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"3 files, 121 kB, pulled to {tmp_path / 'copy'} in ")
    assert done.out.endswith("; 0 were there already\n")
    for path in model.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()
    again = streamer("pull", "s3://models/llama", tmp_path / "copy")
    assert again.out.startswith("0 files, 0 bytes, pulled to ")
    assert again.out.endswith("; 3 were there already\n")


def test_patterns_choose(streamer: Command, server: FaultServer, tmp_path: Path) -> None:
    arguments = ["--allow", "*.json", "--allow", "model-*", "--ignore", "*-2*"]
    document = streamer("pull", "--json", *arguments, "s3://models/llama", tmp_path / "copy").document
    assert [(each["name"], each["fetched"]) for each in document["files"]] == [
        ("config.json", True),
        ("model-1.safetensors", True),
    ]
    assert document["bytes_fetched"] == sum(each["bytes"] for each in document["files"])
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json", "model-1.safetensors"]


def test_patterns_that_choose_nothing_are_an_error(streamer: Command, server: FaultServer, tmp_path: Path) -> None:
    done = streamer("pull", "--allow", "*.nothing", "s3://models/llama", tmp_path / "copy")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: s3://models/llama: no file is chosen by the patterns: allow '*.nothing'\n"
    assert "Patterns(" not in done.err


def test_a_dry_run_lists_what_is_missing_and_writes_nothing(
    streamer: Command, server: FaultServer, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    done = streamer("pull", "--dry-run", "s3://models/llama", copy)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[-1] for line in done.out.splitlines()[:-1]] == [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert done.out.endswith(f"3 files, 121 kB, would be pulled to {copy}; 0 are there already\n")
    assert not copy.exists()
    streamer("pull", "s3://models/llama", copy, "--allow", "*.json")
    document = streamer("pull", "--dry-run", "--json", "s3://models/llama", copy).document
    assert [(each["name"], each["missing"]) for each in document["files"]] == [
        ("config.json", False),
        ("model-1.safetensors", True),
        ("model-2.safetensors", True),
    ]
    assert [path.name for path in copy.iterdir()] == ["config.json"]


@pytest.mark.parametrize("destination", ["/proc/runai", "/proc/self", "/sys/runai"])
def test_a_file_system_that_takes_no_files_is_told(streamer: Command, server: FaultServer, destination: str) -> None:
    done = streamer("pull", "s3://models/llama", destination)
    assert done.code == 1
    assert "was removed" not in done.err
    assert destination in done.err


def test_a_pull_that_is_refused_is_an_error(streamer: Command, server: FaultServer, tmp_path: Path) -> None:
    server.choose = lambda request: refuse(403, "AccessDenied") if "model-2" in request.target else None
    done = streamer("pull", "s3://models/llama", tmp_path / "copy")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: s3://models/llama/model-2.safetensors: access denied")
    assert "planted" not in done.err


def test_a_pattern_at_the_end_of_the_url_chooses(streamer: Command, server: FaultServer, tmp_path: Path) -> None:
    document = streamer("pull", "--json", "s3://models/llama/*.json", tmp_path / "copy").document
    assert [each["name"] for each in document["files"]] == ["config.json"]
    assert document["source"] == "s3://models/llama"
