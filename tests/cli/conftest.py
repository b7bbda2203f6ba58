"""The command, run in this process; files and a store to run it on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from runai_model_streamer.cli.main import main
from tests.checkpoints import join_ours, our_threads, stored, write
from tests.servers import FaultServer

KEY_ID = "AKIAPLANTEDKEYID0001"
SECRET = "planted/secret+access=key000000000000001"
TOKEN = "planted-session-token-000000000000000000000000000000000001"


class Done(NamedTuple):
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout, which is one JSON document."""
        return json.loads(self.out)

    @property
    def everything(self) -> str:
        return self.out + self.err


class Command(Protocol):
    """Runs `runai-streamer`."""

    def __call__(self, *arguments: object) -> Done: ...


@pytest.fixture
def streamer(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The command; no thread outlives a test."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    yield run
    join_ours()
    assert our_threads() == []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of two files, and what belongs to a model beside them."""
    folder = tmp_path / "model"
    folder.mkdir()
    first = {"embed": stored("BF16", [300, 100]), "norm": stored("F32", [100])}
    write(folder / "model-1.safetensors", first)
    write(folder / "model-2.safetensors", {"head": stored("BF16", [100, 300])})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch, aws_files: None) -> Iterator[FaultServer]:
    """The same files at s3://models/llama, for which planted secrets are sent."""
    with FaultServer() as server:
        for path in model.iterdir():
            server.put("models", f"llama/{path.name}", path.read_bytes())
        variables = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield server
