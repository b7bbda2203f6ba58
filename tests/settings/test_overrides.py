"""Settings of one streamer."""

from pathlib import Path

import pytest

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, ConfigError
from runai_model_streamer.settings.overrides import as_variables
from runai_model_streamer.settings.table import SETTINGS
from tests.checkpoints import numbered, write

LIMIT = "RUNAI_STREAMER_MEMORY_LIMIT"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", numbered([100]))


def limit_of(streamer: SafetensorsStreamer, model: Path) -> int | None:
    with streamer:
        streamer.stream_file(model)
        assert len(list(streamer.get_tensors())) == 1
        return streamer.report.settings.memory_limit


def test_two_streamers_of_a_process_differ(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1GiB")
    assert limit_of(SafetensorsStreamer({LIMIT: "4MiB"}), model) == 4 << 20
    assert limit_of(SafetensorsStreamer({LIMIT: 8 << 20}), model) == 8 << 20
    assert limit_of(SafetensorsStreamer(), model) == 1 << 30


def test_an_empty_text_is_the_default_in_spite_of_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1GiB")
    assert limit_of(SafetensorsStreamer({LIMIT: ""}), model) is None


def test_ranges_of_files_have_them_too(model: Path) -> None:
    with FileStreamer({LIMIT: "4MiB"}) as streamer:
        streamer.stream_files([FileChunks(0, str(model), [0], [10])])
        list(streamer.get_chunks())
        assert streamer.report.settings.memory_limit == 4 << 20


def test_a_value_that_cannot_be_used_is_an_error_of_the_load(model: Path) -> None:
    with SafetensorsStreamer({LIMIT: "much"}) as streamer, pytest.raises(ConfigError, match=f"{LIMIT}='much'"):
        streamer.stream_file(model)


def test_a_name_that_is_no_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError) as caught:
        SafetensorsStreamer({"RUNAI_STREAMER_MEMORY_LIMT": 1})
    assert str(caught.value) == f"'RUNAI_STREAMER_MEMORY_LIMT' is not a setting; did you mean {LIMIT}?"
    with pytest.raises(ArgumentError, match=r"docs/environment\.md lists them"):
        SafetensorsStreamer({"x": 1})


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=f"{LIMIT} is text or a number, not list"):
        SafetensorsStreamer({LIMIT: []})  # type: ignore[dict-item]


def test_flags_are_written_as_variables_have_them() -> None:
    assert as_variables({"RUNAI_STREAMER_VERIFY": True, "RUNAI_STREAMER_S3_UNSIGNED": False}) == {
        "RUNAI_STREAMER_VERIFY": "1",
        "RUNAI_STREAMER_S3_UNSIGNED": "0",
    }


def test_a_secret_is_not_shown() -> None:
    secret = next(setting.name for setting in SETTINGS if setting.secret)
    assert "planted" not in repr(as_variables({secret: "planted", "RUNAI_STREAMER_S3_ENDPOINT": "http://u:planted@h"}))
