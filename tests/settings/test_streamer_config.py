"""Settings of one streamer: `StreamerConfig`."""

import copy
import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    SafetensorsStreamer,
    StreamerConfig,
    list_safetensors,
    load_file,
    pull_files,
    safe_open,
)
from runai_model_streamer.config import DirectIO, FanOut, LoadConfig, S3Transport
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, ConfigError
from runai_model_streamer.settings.streamer_config import NOT_OF_A_LOAD, parsed
from runai_model_streamer.settings.table import PREFIX, SETTINGS
from tests.checkpoints import numbered, write

LIMIT = "RUNAI_STREAMER_MEMORY_LIMIT"

EVERY: dict[str, tuple[Any, Any]] = {
    "concurrency": (7, 7),
    "chunk_bytesize": ("3MiB", 3 << 20),
    "memory_limit": ("4Gi", 4 << 30),
    "direct_io": (True, "1"),
    "gds": (False, "0"),
    "pinned": ("auto", "auto"),
    "max_bandwidth": ("500MB", 500_000_000),
    "process_group_size": (8, 8),
    "s3_endpoint": ("http://minio:9000", "http://minio:9000"),
    "s3_use_virtual_addressing": (False, False),
    "s3_unsigned": (True, True),
    "s3_max_retries": (0, 0),
    "s3_timeout": (2.5, 2.5),
    "s3_transport": ("boto3", "boto3"),
    "connections": (64, 64),
    "hedge": (False, False),
    "http_token": ("models.example=abc", (("models.example", "abc"),)),
    "gcs_use_anonymous_credentials": (True, True),
    "gcs_credential_file": (Path("/key.json"), "/key.json"),
    "verify": (True, True),
    "cache_dir": (Path("/nvme"), "/nvme"),
    "cache_size": (200_000, 200_000),
    "cache_offline": (True, True),
    "dist": (False, "0"),
    "dist_global": (True, True),
    "dist_timeout": (60, 60.0),
    "dist_fanout": ("sockets", "sockets"),
    "trace": ("/tmp/{pid}.json", "/tmp/{pid}.json"),
}
"""Field -> a value as a program gives it, and as the load has it."""
FIELDS = {setting.name: setting.field for setting in SETTINGS}


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
    assert limit_of(SafetensorsStreamer(config=StreamerConfig(memory_limit="4MiB")), model) == 4 << 20
    assert limit_of(SafetensorsStreamer(config=StreamerConfig(memory_limit=8 << 20)), model) == 8 << 20
    assert limit_of(SafetensorsStreamer(config=StreamerConfig(concurrency=2)), model) == 1 << 30
    assert limit_of(SafetensorsStreamer(), model) == 1 << 30


def test_ranges_of_files_have_them_too(model: Path) -> None:
    for kind in (FileStreamer, DistributedStreamer):
        with kind(config=StreamerConfig(memory_limit="4MiB")) as streamer:
            streamer.stream_files([FileChunks(0, str(model), [0], [10])])
            list(streamer.get_chunks())
            assert streamer.report.settings.memory_limit == 4 << 20


def test_every_setting_of_a_load_has_a_field_of_its_name() -> None:
    variables = {name.removeprefix(PREFIX).lower() for name in FIELDS if name.startswith(PREFIX)}
    fields = {field.name for field in dataclasses.fields(StreamerConfig)}
    assert fields == variables - {name.lower() for name in NOT_OF_A_LOAD} == set(EVERY)


def test_every_field_is_documented() -> None:
    source = inspect.getsource(StreamerConfig)
    undocumented = [name for name in EVERY if f"\n    {name}: " not in source]
    assert undocumented == []
    for line, following in zip(source.splitlines(), source.splitlines()[1:], strict=False):
        if line.endswith(" | None = None"):
            assert following.startswith('    """'), line


@pytest.mark.parametrize("name", EVERY)
def test_a_field_wins_over_every_variable_of_its_setting(name: str) -> None:
    given, expected = EVERY[name]
    field = FIELDS[PREFIX + name.upper()]
    other = {variable: "not even valid" for variable, its in FIELDS.items() if its == field}
    config = LoadConfig.from_environment(other, StreamerConfig(**{name: given}))
    found: Any = config
    for part in field.split("."):
        found = getattr(found, part)
    assert getattr(found, "value", found) == expected
    assert config != LoadConfig() or found == getattr(LoadConfig(), field, None)


@pytest.mark.parametrize("name", EVERY)
def test_a_field_takes_what_its_variable_takes(name: str) -> None:
    given, _ = EVERY[name]
    text = str(int(given)) if isinstance(given, bool) else str(given)
    by_variable = LoadConfig.from_environment({PREFIX + name.upper(): text})
    assert LoadConfig.from_environment({}, StreamerConfig(**{name: given})) == by_variable


def test_empty_text_is_the_default_in_spite_of_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1GiB")
    assert limit_of(SafetensorsStreamer(config=StreamerConfig(memory_limit="")), model) is None
    environ = {"RUNAI_STREAMER_CACHE_DIR": "/nvme"}
    assert LoadConfig.from_environment(environ, StreamerConfig(cache_dir="")).cache.folder is None


def test_no_bound_wins_over_one_of_the_environment() -> None:
    environ = {"RUNAI_STREAMER_MAX_BANDWIDTH": "500MB"}
    assert LoadConfig.from_environment(environ, StreamerConfig(max_bandwidth=0)).max_bandwidth is None


def test_the_environments_other_settings_stay() -> None:
    config = LoadConfig.from_environment({LIMIT: "1GiB"}, StreamerConfig(direct_io=True))
    assert (config.memory_limit, config.direct_io) == (1 << 30, DirectIO.ALWAYS)
    with pytest.raises(ConfigError, match=f"{LIMIT}='much'"):
        LoadConfig.from_environment({LIMIT: "much"}, StreamerConfig(direct_io=True))


def test_ranks_meet_by_what_a_program_gives() -> None:
    assert LoadConfig.for_ranks(StreamerConfig(dist_timeout=5)).distribution_timeout == 5


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("memory_limit", "4 pounds", "memory_limit='4 pounds' cannot be used: set it to a number of bytes, or a size"),
        ("memory_limit", -2, "memory_limit='-2' cannot be used"),
        ("concurrency", 0, "concurrency='0' cannot be used: set it to a whole number, at least 1"),
        ("concurrency", 1025, "concurrency='1025' cannot be used: set it to at most 1024"),
        pytest.param("connections", 10**5000, "connections is too large", id="5001 digits"),
        ("direct_io", "yes", "direct_io='yes' cannot be used: set it to auto, 0 or 1"),
        ("s3_timeout", float("nan"), "s3_timeout='nan' cannot be used: set it to a number of seconds above 0"),
        ("s3_transport", "wget", "s3_transport='wget' cannot be used: set it to auto, curl or boto3"),
        ("trace", "{host}.json", "trace='{host}.json' cannot be used"),
    ],
)
def test_a_value_that_cannot_be_used_names_the_field(name: str, value: Any, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        StreamerConfig(**{name: value})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("memory_limit", 4.5, "memory_limit is int or str, not float"),
        ("memory_limit", True, "memory_limit is int or str, not bool"),
        ("concurrency", "16", "concurrency is int, not str"),
        ("verify", 1, "verify is bool, not int"),
        ("direct_io", 1, "direct_io is bool or str, not int"),
        ("dist_timeout", "1", "dist_timeout is float or int, not str"),
        ("dist_timeout", False, "dist_timeout is float or int, not bool"),
        ("cache_dir", 3, "cache_dir is PathLike or str, not int"),
    ],
)
def test_a_value_of_another_type_names_the_field(name: str, value: Any, said: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        StreamerConfig(**{name: value})
    assert str(caught.value) == said


def test_a_mapping_is_refused_where_it_is_given(tmp_path: Path) -> None:
    wrong: Any = {LIMIT: "4GiB"}
    calls = (
        lambda: SafetensorsStreamer(config=wrong),
        lambda: ObjectStorageModel(tmp_path, tmp_path / "there", config=wrong),
        lambda: list_safetensors(tmp_path, config=wrong),
        lambda: pull_files(tmp_path, tmp_path / "there", config=wrong),
        lambda: load_file(tmp_path / "x", config=wrong),
        lambda: safe_open(tmp_path / "x", config=wrong),
    )
    for call in calls:
        with pytest.raises(ArgumentTypeError, match="config is a StreamerConfig, not dict"):
            call()


def test_helpers_take_it_too(
    model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "not even valid")
    config = StreamerConfig(memory_limit="4MiB")
    assert list_safetensors(tmp_path, config=config) == [str(model)]
    assert list(load_file(model, config=config)) == ["t0"]
    with safe_open(model, config=config) as file:
        assert file.keys() == ["t0"]
    there = tmp_path_factory.mktemp("there")
    pull_files(tmp_path, there / "pulled", config=config)
    with ObjectStorageModel(tmp_path, there / "kept", config=config) as kept:
        kept.pull_files()
    with FileStreamer(config=config) as streamer:
        assert streamer.list_files(there / "kept", allow_patterns=["*.safetensors"])


def test_it_is_a_value() -> None:
    one = StreamerConfig(memory_limit="4GiB", cache_dir=Path("/nvme"))
    assert one == StreamerConfig(cache_dir="/nvme", memory_limit="4GiB")
    assert hash(one) == hash(dataclasses.replace(one))
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert dataclasses.replace(one, memory_limit=0).memory_limit == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.memory_limit = 0  # type: ignore[misc]


def test_it_shows_what_is_set_and_no_secret() -> None:
    config = StreamerConfig(memory_limit="4GiB", http_token="h=planted", s3_endpoint="http://u:planted@minio:9000")
    shown = "StreamerConfig(memory_limit='4GiB', s3_endpoint='http://***@minio:9000', http_token='***')"
    assert repr(config) == shown
    assert "planted" not in repr(parsed(config))
    with pytest.raises(ArgumentError) as caught:
        StreamerConfig(http_token="planted")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(("name", "values"), [("s3_transport", S3Transport), ("dist_fanout", FanOut)])
def test_a_choice_has_the_values_of_its_setting(name: str, values: type[FanOut] | type[S3Transport]) -> None:
    chosen = [each for part in get_args(get_type_hints(StreamerConfig)[name]) for each in get_args(part)]
    assert chosen == [each.value for each in values]
