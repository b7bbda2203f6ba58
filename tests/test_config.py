"""The environment variables: what each is without being set, what it may hold, and what is said otherwise."""

import dataclasses
import re

import pytest

from runai_model_streamer.config import (
    AzureConfig,
    CacheConfig,
    DirectIO,
    Distribution,
    FanOut,
    GcsConfig,
    GdsMode,
    HubConfig,
    LoadConfig,
    PinnedMode,
    S3Config,
    S3Transport,
    WebConfig,
)
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE

MIB = 1 << 20

FIELDS = {
    "RUNAI_STREAMER_CONCURRENCY": "concurrency",
    "RUNAI_STREAMER_CHUNK_BYTESIZE": "chunk_bytesize",
    "RUNAI_STREAMER_MEMORY_LIMIT": "memory_limit",
    "RUNAI_STREAMER_DIRECT_IO": "direct_io",
    "RUNAI_STREAMER_DIRECTIO": "direct_io",
    "RUNAI_STREAMER_GDS": "gds",
    "RUNAI_STREAMER_PINNED": "pinned",
    "RUNAI_STREAMER_DIST": "distribution",
    "RUNAI_STREAMER_DIST_GLOBAL": "distribute_globally",
    "RUNAI_STREAMER_DIST_TIMEOUT": "distribution_timeout",
    "RUNAI_STREAMER_DIST_FANOUT": "fan_out",
    "RUNAI_STREAMER_PROCESS_GROUP_SIZE": "local_processes",
    "LOCAL_WORLD_SIZE": "local_processes",
    "SLURM_STEP_TASKS_PER_NODE": "local_processes",
    "RUNAI_STREAMER_MAX_BANDWIDTH": "max_bandwidth",
    "RUNAI_STREAMER_VERIFY": "verify",
    "RUNAI_STREAMER_S3_ENDPOINT": "s3.endpoint",
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "s3.virtual_addressing",
    "RUNAI_STREAMER_S3_UNSIGNED": "s3.unsigned",
    "RUNAI_STREAMER_CONNECTIONS": "s3.connections",
    "RUNAI_STREAMER_HEDGE": "s3.hedge",
    "RUNAI_STREAMER_S3_MAX_RETRIES": "s3.max_retries",
    "RUNAI_STREAMER_S3_TIMEOUT": "s3.timeout",
    "RUNAI_STREAMER_S3_TRANSPORT": "s3.transport",
    "REQUESTS_CA_BUNDLE": "s3.ca_bundle",
    "RUNAI_STREAMER_VLLM": "vllm",
    "RUNAI_STREAMER_HTTP_TOKEN": "web.tokens",
    "NETRC": "web.netrc",
    "RUNAI_STREAMER_SGLANG": "sglang",
    "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "gcs.anonymous",
    "RUNAI_STREAMER_GCS_CREDENTIAL_FILE": "gcs.credential_file",
    "GCS_CREDENTIAL_FILE": "gcs.credential_file",
    "STORAGE_EMULATOR_HOST": "gcs.emulator",
    "AZURE_STORAGE_CONNECTION_STRING": "azure.connection_string",
    "AZURE_STORAGE_ACCOUNT_NAME": "azure.account",
    "AZURE_STORAGE_ACCOUNT": "azure.account",
    "AZURE_STORAGE_ACCOUNT_KEY": "azure.key",
    "AZURE_STORAGE_KEY": "azure.key",
    "AZURE_STORAGE_SAS_TOKEN": "azure.sas",
    "AZURE_STORAGE_ENDPOINT": "azure.endpoint",
    "AZURE_STORAGE_ENDPOINT_SUFFIX": "azure.endpoint_suffix",
    "AZURE_STORAGE_ANON": "azure.anonymous",
    "RUNAI_STREAMER_CACHE_DIR": "cache.folder",
    "RUNAI_STREAMER_CACHE_SIZE": "cache.size",
    "RUNAI_STREAMER_CACHE_OFFLINE": "cache.offline",
    "HF_ENDPOINT": "hub.endpoint",
    "HF_HUB_CACHE": "hub.cache",
    "HF_HUB_OFFLINE": "hub.offline",
    "RUNAI_STREAMER_TRACE": "trace",
    "RUNAI_STREAMER_LOG_LEVEL": "log_level",
    "RUNAI_STREAMER_LOG_TO_STDERR": "log_to_stderr",
}
"""Variable -> field of the configuration."""

DEFAULTS: dict[str, object] = {
    "RUNAI_STREAMER_CONCURRENCY": None,
    "RUNAI_STREAMER_CHUNK_BYTESIZE": None,
    "RUNAI_STREAMER_MEMORY_LIMIT": -1,
    "RUNAI_STREAMER_DIRECT_IO": DirectIO.AUTO,
    "RUNAI_STREAMER_DIRECTIO": DirectIO.AUTO,
    "RUNAI_STREAMER_GDS": GdsMode.AUTO,
    "RUNAI_STREAMER_PINNED": PinnedMode.AUTO,
    "RUNAI_STREAMER_DIST": Distribution.AUTO,
    "RUNAI_STREAMER_DIST_GLOBAL": False,
    "RUNAI_STREAMER_DIST_TIMEOUT": 600.0,
    "RUNAI_STREAMER_DIST_FANOUT": FanOut.AUTO,
    "RUNAI_STREAMER_PROCESS_GROUP_SIZE": 1,
    "LOCAL_WORLD_SIZE": 1,
    "SLURM_STEP_TASKS_PER_NODE": 1,
    "RUNAI_STREAMER_MAX_BANDWIDTH": None,
    "RUNAI_STREAMER_VERIFY": False,
    "RUNAI_STREAMER_S3_ENDPOINT": None,
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": True,
    "RUNAI_STREAMER_S3_UNSIGNED": False,
    "RUNAI_STREAMER_CONNECTIONS": None,
    "RUNAI_STREAMER_HEDGE": True,
    "RUNAI_STREAMER_S3_MAX_RETRIES": 8,
    "RUNAI_STREAMER_S3_TIMEOUT": 30.0,
    "RUNAI_STREAMER_S3_TRANSPORT": S3Transport.AUTO,
    "REQUESTS_CA_BUNDLE": None,
    "RUNAI_STREAMER_VLLM": False,
    "RUNAI_STREAMER_HTTP_TOKEN": (),
    "NETRC": None,
    "RUNAI_STREAMER_SGLANG": False,
    "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": False,
    "RUNAI_STREAMER_GCS_CREDENTIAL_FILE": None,
    "GCS_CREDENTIAL_FILE": None,
    "STORAGE_EMULATOR_HOST": None,
    "HF_ENDPOINT": None,
    "HF_HUB_CACHE": None,
    "HF_HUB_OFFLINE": False,
    "RUNAI_STREAMER_TRACE": None,
    "RUNAI_STREAMER_LOG_LEVEL": None,
    "RUNAI_STREAMER_LOG_TO_STDERR": False,
}

FLAGS = {
    **dict.fromkeys(("1", "true", "True", "YES", "on", " 1 "), True),
    **dict.fromkeys(("0", "false", "FALSE", "no", "off", "\t0\n"), False),
}

BYTES = ("RUNAI_STREAMER_CHUNK_BYTESIZE", "RUNAI_STREAMER_MEMORY_LIMIT", "RUNAI_STREAMER_MAX_BANDWIDTH")
UNITS = {
    "70000B": 70_000,
    "512k": 512 << 10,
    "512KiB": 512 << 10,
    "512Ki": 512 << 10,
    "512kB": 512_000,
    "4M": 4 << 20,
    " 512MB ": 512_000_000,
    "512 MiB": 512 << 20,
    "4GiB": 4 << 30,
    "4Gi": 4 << 30,
    "4gib": 4 << 30,
    "4GB": 4_000_000_000,
    "1.5Gi": 3 << 29,
    "2TiB": 2 << 40,
}
"""Sizes as people write them -> bytes."""

GOOD: list[tuple[str, str, object]] = [
    ("RUNAI_STREAMER_CONCURRENCY", "1", 1),
    ("RUNAI_STREAMER_CONCURRENCY", " 32 ", 32),
    ("RUNAI_STREAMER_CONCURRENCY", "1024", 1024),
    ("RUNAI_STREAMER_CONCURRENCY", "1025", 1024),
    ("RUNAI_STREAMER_CHUNK_BYTESIZE", "1", 1),
    ("RUNAI_STREAMER_CHUNK_BYTESIZE", "8388608", 8 * MIB),
    ("RUNAI_STREAMER_MEMORY_LIMIT", "-1", -1),
    ("RUNAI_STREAMER_MEMORY_LIMIT", "0", 0),
    ("RUNAI_STREAMER_MEMORY_LIMIT", "1", 1),
    ("RUNAI_STREAMER_MEMORY_LIMIT", "5368709120", 5 << 30),
    ("RUNAI_STREAMER_MEMORY_LIMIT", str(2**63 - 1), 2**63 - 1),
    *((name, text, value) for name in BYTES for text, value in UNITS.items()),
    ("RUNAI_STREAMER_DIRECT_IO", "auto", DirectIO.AUTO),
    ("RUNAI_STREAMER_DIRECT_IO", "AUTO", DirectIO.AUTO),
    ("RUNAI_STREAMER_DIRECT_IO", "0", DirectIO.NEVER),
    ("RUNAI_STREAMER_DIRECT_IO", " 1 ", DirectIO.ALWAYS),
    ("RUNAI_STREAMER_GDS", "auto", GdsMode.AUTO),
    ("RUNAI_STREAMER_GDS", "0", GdsMode.NEVER),
    ("RUNAI_STREAMER_GDS", "1", GdsMode.ALWAYS),
    ("RUNAI_STREAMER_PINNED", "auto", PinnedMode.AUTO),
    ("RUNAI_STREAMER_PINNED", "0", PinnedMode.NEVER),
    ("RUNAI_STREAMER_PINNED", "1", PinnedMode.ALWAYS),
    ("RUNAI_STREAMER_DIST", "auto", Distribution.AUTO),
    ("RUNAI_STREAMER_DIST", "0", Distribution.NEVER),
    ("RUNAI_STREAMER_DIST", "1", Distribution.ALWAYS),
    *(("RUNAI_STREAMER_DIST_GLOBAL", text, value) for text, value in FLAGS.items()),
    ("RUNAI_STREAMER_DIST_TIMEOUT", "2.5", 2.5),
    ("RUNAI_STREAMER_DIST_FANOUT", "memory", FanOut.MEMORY),
    ("RUNAI_STREAMER_DIST_FANOUT", "device", FanOut.DEVICE),
    *(("RUNAI_STREAMER_VLLM", text, value) for text, value in FLAGS.items()),
    *(("RUNAI_STREAMER_SGLANG", text, value) for text, value in FLAGS.items()),
    ("RUNAI_STREAMER_DIST_FANOUT", "sockets", FanOut.SOCKETS),
    ("RUNAI_STREAMER_DIRECTIO", "1", DirectIO.ALWAYS),
    ("RUNAI_STREAMER_DIRECTIO", "0", DirectIO.AUTO),
    ("RUNAI_STREAMER_PROCESS_GROUP_SIZE", "8", 8),
    ("LOCAL_WORLD_SIZE", "4", 4),
    ("SLURM_STEP_TASKS_PER_NODE", "4", 4),
    ("SLURM_STEP_TASKS_PER_NODE", "2(x3),8,4(x2)", 8),
    ("SLURM_STEP_TASKS_PER_NODE", "eight", 1),
    ("RUNAI_STREAMER_MAX_BANDWIDTH", "0", None),
    ("RUNAI_STREAMER_MAX_BANDWIDTH", "65536", 65536),
    ("RUNAI_STREAMER_MAX_BANDWIDTH", " 1250000000 ", 1_250_000_000),
    *(("RUNAI_STREAMER_VERIFY", text, value) for text, value in FLAGS.items()),
    *(("RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS", text, value) for text, value in FLAGS.items()),
    *(("HF_HUB_OFFLINE", text, value) for text, value in FLAGS.items()),
    *(("RUNAI_STREAMER_HEDGE", text, value) for text, value in FLAGS.items()),
    ("RUNAI_STREAMER_S3_ENDPOINT", " http://minio:9000\n", "http://minio:9000"),
    *(("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", text, value) for text, value in FLAGS.items()),
    *(("RUNAI_STREAMER_S3_UNSIGNED", text, value) for text, value in FLAGS.items()),
    ("RUNAI_STREAMER_CONNECTIONS", "1", 1),
    ("RUNAI_STREAMER_CONNECTIONS", "2000", 1024),
    ("RUNAI_STREAMER_S3_MAX_RETRIES", "0", 0),
    ("RUNAI_STREAMER_S3_MAX_RETRIES", "20", 20),
    ("RUNAI_STREAMER_S3_TRANSPORT", "curl", S3Transport.CURL),
    ("RUNAI_STREAMER_S3_TRANSPORT", " Boto3 ", S3Transport.BOTO3),
    ("RUNAI_STREAMER_S3_TRANSPORT", "auto", S3Transport.AUTO),
    ("REQUESTS_CA_BUNDLE", "/etc/ssl/ours.pem", "/etc/ssl/ours.pem"),
    ("RUNAI_STREAMER_S3_TIMEOUT", "0.5", 0.5),
    ("RUNAI_STREAMER_S3_TIMEOUT", "120", 120.0),
    ("RUNAI_STREAMER_S3_TIMEOUT", "1e2", 100.0),
    ("RUNAI_STREAMER_TRACE", " /tmp/load.json ", "/tmp/load.json"),
    ("RUNAI_STREAMER_TRACE", "load-{rank}-{pid}.json", "load-{rank}-{pid}.json"),
    ("RUNAI_STREAMER_LOG_LEVEL", " debug ", "DEBUG"),
    *(("RUNAI_STREAMER_LOG_TO_STDERR", text, value) for text, value in FLAGS.items()),
]

COUNTS = {
    "RUNAI_STREAMER_CONCURRENCY": 1,
    "RUNAI_STREAMER_CHUNK_BYTESIZE": 1,
    "RUNAI_STREAMER_MEMORY_LIMIT": -1,
    "RUNAI_STREAMER_PROCESS_GROUP_SIZE": 1,
    "LOCAL_WORLD_SIZE": 1,
    "RUNAI_STREAMER_CONNECTIONS": 1,
    "RUNAI_STREAMER_S3_MAX_RETRIES": 0,
}
"""Variables that hold whole numbers -> the least of them."""

SIZES = ("RUNAI_STREAMER_CHUNK_BYTESIZE", "RUNAI_STREAMER_MEMORY_LIMIT")
"""Those of them whose numbers may carry a unit."""

BAD: list[tuple[str, str]] = [
    *((name, str(minimum - 1)) for name, minimum in COUNTS.items()),
    *((name, text) for name in COUNTS for text in ("many", "1.5", "2e3", "0x10", "1 2", "nan", "--1")),
    *((name, "16MiB") for name in COUNTS if name not in SIZES),
    *((name, text) for name in SIZES for text in ("16Q", "16 M B", "-16MiB", "MiB", "1.5.0MiB", "1,5GiB", "0.5B")),
    *(("RUNAI_STREAMER_DIRECT_IO", text) for text in ("2", "yes", "true", "-1")),
    *(("RUNAI_STREAMER_GDS", text) for text in ("2", "on")),
    *(("RUNAI_STREAMER_PINNED", text) for text in ("2", "yes")),
    *(("RUNAI_STREAMER_DIST", text) for text in ("2", "nccl")),
    ("RUNAI_STREAMER_DIST_GLOBAL", "2"),
    ("RUNAI_STREAMER_DIST_FANOUT", "nvlink"),
    *(("RUNAI_STREAMER_DIST_TIMEOUT", text) for text in ("0", "-1", "never", "nan")),
    *(("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", text) for text in ("2", "maybe", "-1", "01")),
    *(("RUNAI_STREAMER_S3_UNSIGNED", text) for text in ("2", "maybe", "-1", "01")),
    ("AZURE_STORAGE_ANON", "2"),
    ("RUNAI_STREAMER_CACHE_OFFLINE", "2"),
    ("RUNAI_STREAMER_CACHE_SIZE", "0"),
    *(("RUNAI_STREAMER_S3_TRANSPORT", text) for text in ("libcurl", "boto", "1")),
    *(("RUNAI_STREAMER_S3_TIMEOUT", text) for text in ("0", "-1", "nan", "inf", "-inf", "30s", "soon", "86401")),
    *(("RUNAI_STREAMER_MAX_BANDWIDTH", text) for text in ("1", "100", "65535", "-1", "1e9", "1.5", "63Ki", "100MB/s")),
    *(("RUNAI_STREAMER_VERIFY", text) for text in ("2", "md5")),
    *(("HF_HUB_OFFLINE", text) for text in ("2", "perhaps")),
    ("RUNAI_STREAMER_HEDGE", "2"),
    *(("RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS", text) for text in ("2", "perhaps")),
    *(("RUNAI_STREAMER_VLLM", text) for text in ("2", "cuda")),
    *(("RUNAI_STREAMER_SGLANG", text) for text in ("2", "cuda")),
    *(("RUNAI_STREAMER_TRACE", text) for text in ("traces/", "load-{host}.json", "load-{}.json", "a\0b")),
    ("RUNAI_STREAMER_LOG_LEVEL", "LOUD"),
    *(("RUNAI_STREAMER_LOG_TO_STDERR", text) for text in ("2", "maybe")),
]

REMEDIES = {
    "RUNAI_STREAMER_CONCURRENCY": "set it to a whole number, at least 1",
    "RUNAI_STREAMER_CHUNK_BYTESIZE": "set it to a number of bytes, or a size such as 16MiB, 16Mi or 16MB, at least 1",
    "RUNAI_STREAMER_MEMORY_LIMIT": "set it to a number of bytes, or a size such as 4GiB, 4Gi or 4GB; to 0 for the "
    "least, or to -1 for no limit",
    "RUNAI_STREAMER_DIRECT_IO": "set it to auto, 0 or 1",
    "RUNAI_STREAMER_GDS": "set it to auto, 0 or 1",
    "RUNAI_STREAMER_PINNED": "set it to auto, 0 or 1",
    "RUNAI_STREAMER_DIST": "set it to auto, 0 or 1",
    "RUNAI_STREAMER_DIST_GLOBAL": "set it to 0 or 1",
    "RUNAI_STREAMER_DIST_FANOUT": "set it to auto, memory, device or sockets",
    "RUNAI_STREAMER_VLLM": "set it to 0 or 1",
    "RUNAI_STREAMER_SGLANG": "set it to 0 or 1",
    "RUNAI_STREAMER_DIST_TIMEOUT": "set it to a number of seconds above 0, at most 86400",
    "RUNAI_STREAMER_PROCESS_GROUP_SIZE": "set it to a whole number, at least 1",
    "LOCAL_WORLD_SIZE": "set it to a whole number, at least 1",
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "set it to 0 or 1",
    "RUNAI_STREAMER_S3_UNSIGNED": "set it to 0 or 1",
    "AZURE_STORAGE_ANON": "set it to 0 or 1",
    "RUNAI_STREAMER_CACHE_OFFLINE": "set it to 0 or 1",
    "RUNAI_STREAMER_CACHE_SIZE": "set it to a number of bytes, or a size such as 16MiB, 16Mi or 16MB, at least 1",
    "RUNAI_STREAMER_CONNECTIONS": "set it to a whole number, at least 1",
    "RUNAI_STREAMER_S3_MAX_RETRIES": "set it to a whole number, at least 0",
    "RUNAI_STREAMER_S3_TRANSPORT": "set it to auto, curl or boto3",
    "RUNAI_STREAMER_S3_TIMEOUT": "set it to a number of seconds above 0, at most 86400",
    "RUNAI_STREAMER_MAX_BANDWIDTH": "set it to a number of bytes per second, or a size such as 500MB, at least 65536, "
    "or to 0 for no bound",
    "RUNAI_STREAMER_VERIFY": "set it to 0 or 1",
    "HF_HUB_OFFLINE": "set it to 0 or 1",
    "RUNAI_STREAMER_HEDGE": "set it to 0 or 1",
    "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "set it to 0 or 1",
    "RUNAI_STREAMER_TRACE": "set it to a file's path; {pid} and {rank} in it are replaced by the process id and "
    "the rank",
    "RUNAI_STREAMER_LOG_LEVEL": "set it to DEBUG, INFO, WARNING or ERROR",
    "RUNAI_STREAMER_LOG_TO_STDERR": "set it to 0 or 1",
}


def setting(environ: dict[str, str], name: str) -> object:
    """What a variable leads to."""
    found: object = LoadConfig.from_environment(environ)
    for part in FIELDS[name].split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items(), ids=DEFAULTS)
def test_a_variable_that_is_not_set_has_its_default(name: str, default: object) -> None:
    assert setting({}, name) == default


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items(), ids=DEFAULTS)
@pytest.mark.parametrize("text", ["", "  "], ids=["empty", "blank"])
def test_a_variable_that_is_empty_has_its_default(name: str, default: object, text: str) -> None:
    assert setting({name: text}, name) == default


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    found = setting({name: text}, name)
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_refused_with_variable_value_and_remedy(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoadConfig.from_environment({name: text})
    assert str(caught.value) == f"{name}={text!r} cannot be used: {REMEDIES[name]}"


@pytest.mark.parametrize("name", [*COUNTS, "RUNAI_STREAMER_MAX_BANDWIDTH"])
def test_more_digits_than_python_reads_are_a_bad_value(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}='9999.*: {re.escape(REMEDIES[name])}$"):
        LoadConfig.from_environment({name: "9" * 5000})


def test_every_setting_has_a_variable() -> None:
    settings = {field.name for field in dataclasses.fields(LoadConfig)} - {
        "s3",
        "web",
        "hub",
        "gcs",
        "azure",
        "cache",
    }
    groups = {"s3": S3Config, "web": WebConfig, "hub": HubConfig, "gcs": GcsConfig, "azure": AzureConfig}
    groups |= {"cache": CacheConfig}
    settings |= {f"{name}.{field.name}" for name, group in groups.items() for field in dataclasses.fields(group)}
    # A load gives second answers their part of the memory limit.
    assert settings - {"s3.second_answers"} == set(FIELDS.values())


def test_an_empty_environment_gives_what_the_class_gives() -> None:
    assert LoadConfig.from_environment({}) == LoadConfig()


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
    assert LoadConfig.from_environment().concurrency == 7


def test_an_environment_that_is_given_is_read_instead_even_when_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
    assert LoadConfig.from_environment({}).concurrency is None


def test_the_environment_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
    before = LoadConfig.from_environment()
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "8")
    assert (before.concurrency, LoadConfig.from_environment().concurrency) == (7, 8)


def test_the_present_spelling_of_direct_io_wins_over_the_former() -> None:
    environ = {"RUNAI_STREAMER_DIRECT_IO": "0", "RUNAI_STREAMER_DIRECTIO": "1"}
    assert LoadConfig.from_environment(environ).direct_io is DirectIO.NEVER


@pytest.mark.parametrize("sizes", [("4", "2"), ("2", "4")])
def test_the_larger_number_of_processes_counts(sizes: tuple[str, str]) -> None:
    environ = dict(zip(("LOCAL_WORLD_SIZE", "RUNAI_STREAMER_PROCESS_GROUP_SIZE"), sizes, strict=True))
    assert LoadConfig.from_environment(environ).local_processes == 4


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoadConfig().memory_limit = 0  # type: ignore[misc]


@pytest.mark.parametrize(("kind", "first", "maximum"), [(SourceKind.FILE, 16, 16), (SourceKind.OBJECT, 16, 400)])
def test_concurrency_has_a_default_for_each_kind_of_source(kind: SourceKind, first: int, maximum: int) -> None:
    assert LoadConfig().concurrency_for(kind) == first
    assert LoadConfig().max_concurrency_for(kind) == maximum


def test_concurrency_that_is_set_is_the_number_of_reads_of_files() -> None:
    config = LoadConfig(concurrency=3)
    assert config.concurrency_for(SourceKind.FILE) == config.max_concurrency_for(SourceKind.FILE) == 3


@pytest.mark.parametrize(("concurrency", "maximum"), [(1, 50), (3, 150), (8, 400), (1024, 512)])
def test_for_objects_concurrency_that_is_set_counts_fifty_connections(concurrency: int, maximum: int) -> None:
    config = LoadConfig(concurrency=concurrency)
    assert config.concurrency_for(SourceKind.OBJECT) == 16
    assert config.max_concurrency_for(SourceKind.OBJECT) == maximum


@pytest.mark.parametrize("count", [1, 40, 1000])
def test_connections_that_are_set_are_neither_fewer_nor_more(count: int) -> None:
    config = LoadConfig(concurrency=2, s3=S3Config(connections=count))
    assert config.concurrency_for(SourceKind.OBJECT) == config.max_concurrency_for(SourceKind.OBJECT) == count
    assert config.max_concurrency_for(SourceKind.FILE) == 2


@pytest.mark.parametrize("kind", SourceKind)
def test_the_chunk_size_has_a_default(kind: SourceKind) -> None:
    assert LoadConfig().chunk_for(kind) == 8 * MIB


@pytest.mark.parametrize(("kind", "minimum"), [(SourceKind.FILE, 2 * MIB), (SourceKind.OBJECT, 5 * MIB)])
@pytest.mark.parametrize("size", [1, MIB, 2 * MIB - 1])
def test_a_small_chunk_size_is_raised_to_the_least(kind: SourceKind, minimum: int, size: int) -> None:
    assert LoadConfig(chunk_bytesize=size).chunk_for(kind) == minimum


@pytest.mark.parametrize("kind", SourceKind)
@pytest.mark.parametrize(("size", "chunk"), [(6 * MIB, 6 * MIB), (6 * MIB + 1, 6 * MIB + PAGE), (64 * MIB, 64 * MIB)])
def test_a_chunk_size_is_rounded_up_to_whole_pages(kind: SourceKind, size: int, chunk: int) -> None:
    assert LoadConfig(chunk_bytesize=size).chunk_for(kind) == chunk


def test_messages_name_every_variable_there_is() -> None:
    # Else a new variable would go without a bad value above.
    without = {"RUNAI_STREAMER_DIRECTIO", "RUNAI_STREAMER_S3_ENDPOINT", "REQUESTS_CA_BUNDLE"}
    without |= {
        "RUNAI_STREAMER_HTTP_TOKEN",
        "NETRC",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "RUNAI_STREAMER_CACHE_DIR",
        "RUNAI_STREAMER_GCS_CREDENTIAL_FILE",
        "GCS_CREDENTIAL_FILE",
        "STORAGE_EMULATOR_HOST",
    }  # a value that is a secret is not shown; tests/io/web
    without |= {name for name, field in FIELDS.items() if field.startswith("azure.") and field != "azure.anonymous"}
    without |= {"SLURM_STEP_TASKS_PER_NODE"}  # the user does not set it
    assert REMEDIES.keys() == FIELDS.keys() - without
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in FIELDS)


def test_ranks_meet_by_those_of_their_settings_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIST", "0")
    monkeypatch.setenv("RUNAI_STREAMER_DIST_TIMEOUT", "soon")
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "many")
    assert LoadConfig.for_ranks() == LoadConfig(distribution=Distribution.NEVER)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        pytest.param({}, 64 * MIB, id="without a limit"),
        pytest.param({"RUNAI_STREAMER_MEMORY_LIMIT": "1GiB"}, 32 * MIB, id="with a large one"),
        pytest.param({"RUNAI_STREAMER_MEMORY_LIMIT": "128MiB"}, 16 * MIB, id="an eighth of a limit"),
        pytest.param({"RUNAI_STREAMER_MEMORY_LIMIT": "48MiB"}, 0, id="an eighth that holds no range"),
        pytest.param({"RUNAI_STREAMER_MEMORY_LIMIT": "0"}, 0, id="as little as the largest tensor"),
        pytest.param({"RUNAI_STREAMER_MEMORY_LIMIT": "1GiB", "LOCAL_WORLD_SIZE": "8"}, 16 * MIB, id="eight processes"),
        pytest.param({"RUNAI_STREAMER_HEDGE": "0"}, 0, id="none wanted"),
        pytest.param({"RUNAI_STREAMER_MAX_BANDWIDTH": "1000000"}, 0, id="bytes are counted"),
    ],
)
def test_answers_to_second_requests_take_a_part_of_the_memory(settings: dict[str, str], size: int) -> None:
    assert LoadConfig.from_environment(settings).second_answers == size
