"""Variables that are nearly settings are told; those of other programs, and of the original, are not."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors
from runai_model_streamer.settings import variables
from runai_model_streamer.settings.variables import (
    clamped_in_environment,
    settings_in_environment,
    unknown_in_environment,
    warn_of_settings,
)
from tests.checkpoints import stored, write

ROOT = Path(__file__).parents[2]
DOCUMENTED = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    variables._warn.cache_clear()  # noqa: SLF001
    yield
    variables._warn.cache_clear()  # noqa: SLF001


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RUNAI_STREAMER_MEMORY_LIMT", "RUNAI_STREAMER_MEMORY_LIMIT"),
        ("RUNAI_STREAMER_MEMORYLIMIT", "RUNAI_STREAMER_MEMORY_LIMIT"),
        ("runai_streamer_memory_limit", "RUNAI_STREAMER_MEMORY_LIMIT"),
        ("RUNAI_STREAMER_CONCURENCY", "RUNAI_STREAMER_CONCURRENCY"),
        ("RUNAI_STREAMER_CHUNK_SIZE", "RUNAI_STREAMER_CHUNK_BYTESIZE"),
        ("RUNAI_STREAMER_S3_ENDPOINT_URL", "RUNAI_STREAMER_S3_ENDPOINT"),
        # The original's, with nothing here that does the same.
        ("RUNAI_STREAMER_FS_STRATEGY", None),
        ("RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE", None),
        ("RUNAI_STREAMER_", None),
    ],
)
def test_what_is_no_setting_is_found_with_the_one_that_is_meant(
    name: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert unknown_in_environment() == {name: meant}
    assert settings_in_environment() == {}


def test_settings_are_known_and_other_programs_variables_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
    monkeypatch.setenv("RUNAI_STREAMER_DIRECTIO", "1")
    monkeypatch.setenv("RUNAI_JOB", "train")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert settings_in_environment() == {"RUNAI_STREAMER_CONCURRENCY": "7", "RUNAI_STREAMER_DIRECTIO": "1"}
    assert unknown_in_environment() == {}


def test_a_load_and_a_listing_warn_once_of_a_misspelt_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.safetensors", {"a": stored("F32", [2])})
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMT", "1000")
    for _ in range(2):
        list_safetensors(tmp_path)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            assert len(list(streamer.get_tensors())) == 1
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == "Unknown setting RUNAI_STREAMER_MEMORY_LIMT is ignored. Did you mean RUNAI_STREAMER_MEMORY_LIMIT?"


@pytest.mark.parametrize(
    ("value", "clamped"), [("1024", {}), (" 1025 ", {"RUNAI_STREAMER_CONCURRENCY": 1024}), ("many", {})]
)
def test_a_number_above_its_maximum_is_found(
    value: str, clamped: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", value)
    assert clamped_in_environment() == clamped


def test_concurrency_above_the_maximum_is_used_as_the_maximum_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.safetensors", {"a": stored("F32", [2])})
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "5000")
    for _ in range(2):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            assert len(list(streamer.get_tensors())) == 1
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == "RUNAI_STREAMER_CONCURRENCY is above its maximum, and counts as 1024."


MOVING = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
WITHOUT_EFFECT = re.findall(r"\bRUNAI_STREAMER_[A-Z0-9_]+", MOVING.partition("## Variables without an effect")[2])


@pytest.mark.parametrize("name", sorted({name for name in WITHOUT_EFFECT if name not in DOCUMENTED}))
def test_the_originals_settings_are_passed_over(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert unknown_in_environment() == {name: None}
    warn_of_settings()
    assert caplog.records == []


def test_the_originals_settings_are_found_in_the_docs() -> None:
    assert {"RUNAI_STREAMER_FS_CHUNK_BYTESIZE", "RUNAI_STREAMER_OBJ_CONCURRENCY"} <= set(WITHOUT_EFFECT)
