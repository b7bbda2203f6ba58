"""What a command counts is shown in powers of 1000, a setting as its variable takes it: no output mixes GB and GiB."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runai_model_streamer import Progress, SafetensorsStreamer
from runai_model_streamer.report.progress import summary
from tests.checkpoints import numbered, write
from tests.cli.conftest import Command
from tests.servers import FaultServer

BINARY = re.compile(r"\d [KMGT]iB\b|\bBytes\b")
"""As sizes were shown once. `8MiB`, without a space, is a setting."""
DECIMAL = re.compile(r"\d (bytes?|[kMGT]B)\b")

Run = Callable[[Command, Path, Path], str]

COMMANDS: dict[str, Run] = {
    "ls": lambda run, model, _: run("ls", model).out,
    "ls --tensors": lambda run, model, _: run("ls", "--tensors", model).out,
    "load": lambda run, model, _: run("load", "--limit", "64MiB", "--chunk", "4MiB", model).out,
    "verify": lambda run, model, _: run("verify", model).out,
    "pull": lambda run, model, there: run("pull", "--dry-run", model, there).out + run("pull", model, there).out,
    "tune": lambda run, model, _: run("tune", "--budget", "1", model).out,
    "doctor": lambda run, model, _: run("doctor", "--path", model, "--probe").out,
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "m.safetensors", numbered([1 << 20] * 6))
    return tmp_path / "files"


@pytest.mark.usefixtures("aws_files")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_one_kind_of_unit(command: str, streamer: Command, files: Path, tmp_path: Path) -> None:
    out = COMMANDS[command](streamer, files, tmp_path / "there")
    assert BINARY.findall(out) == []
    assert DECIMAL.search(out), out


def test_the_cache_has_the_same(
    streamer: Command, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("awscrt", reason="the extra [verify] is not installed")
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("RUNAI_STREAMER_CACHE_DIR", str(tmp_path / "cache"))
    loaded = streamer("load", "s3://models/llama").out
    outs = [loaded, *(streamer("cache", *arguments).out for arguments in (["ls"], ["verify"], ["prune", "--all"]))]
    for out in outs:
        assert BINARY.findall(out) == []
        assert DECIMAL.search(out), out


def test_a_report_and_its_progress_have_the_same(files: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(files / "m.safetensors")
        for _ in streamer.get_tensors():
            pass
    text, html = str(streamer.report), streamer.report._repr_html_()
    bar = summary(Progress(10**9, 4 * 10**9, 1, 4, 2.0))
    for shown in (text, html, bar):
        assert BINARY.findall(shown) == []
        assert DECIMAL.search(shown), shown
