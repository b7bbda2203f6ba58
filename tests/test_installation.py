"""What is said where the original streamer is installed under the same import name."""

import importlib.metadata
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.installation import warn_of_original
from tests.checkpoints import stored, write


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    warn_of_original.cache_clear()
    yield
    warn_of_original.cache_clear()


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip leaves it, in an environment of its own."""
    metadata = tmp_path / "site" / "runai_model_streamer-0.17.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: runai-model-streamer\nVersion: 0.17.0\n")
    monkeypatch.syspath_prepend(str(metadata.parents[1]))


@pytest.mark.usefixtures("original")
def test_the_first_use_warns_once_and_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "model.safetensors", {"a": stored("F32", [2])})
    for _ in range(2):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            assert len(list(streamer.get_tensors())) == 1
    list_safetensors(tmp_path)
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "runai-model-streamer 0.17.0 is installed together with runai-model-streamer-cuda" in said.message
    assert "pip uninstall -y runai-model-streamer && pip install --force-reinstall --no-deps -e . in" in said.message


def test_alone_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    try:
        importlib.metadata.version("runai-model-streamer")
    except importlib.metadata.PackageNotFoundError:
        warn_of_original()
        assert caplog.records == []
    else:
        pytest.skip("the original is installed in this environment")


def test_a_broken_installation_of_something_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise OSError("unreadable")

    monkeypatch.setattr(importlib.metadata, "version", broken)
    warn_of_original()
