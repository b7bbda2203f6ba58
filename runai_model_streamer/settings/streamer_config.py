"""`StreamerConfig`: settings that a program gives to one streamer, instead of setting environment variables."""

import os
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.settings.setting import Setting
from runai_model_streamer.settings.table import PREFIX, SETTINGS

Size: TypeAlias = int | str
"""A number of bytes, or text such as `"4GiB"`, `"4Gi"` or `"512MB"`."""
Switch: TypeAlias = bool | Literal["auto", "0", "1"]
"""True: or an error that says why not. False: never. "auto": where it fits."""
Path: TypeAlias = str | os.PathLike[str]

NOT_OF_A_LOAD: Final = frozenset({"DIRECTIO", "LOG_LEVEL", "LOG_TO_STDERR", "SGLANG", "VLLM"})
"""Variables without a field: the original's spelling of another, and those that hold for the whole process."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StreamerConfig:
    """Settings of the loads of one streamer, so that two loads of one process may differ.

    ```python
    config = StreamerConfig(memory_limit="4GiB", verify=True)
    with SafetensorsStreamer(config=config) as streamer:
        ...
    ```

    A field is the variable of its name: `memory_limit` is `RUNAI_STREAMER_MEMORY_LIMIT`, with the same meaning and the
    same bounds (docs/environment.md). A field that is None leaves the setting to the environment; any other value wins
    over it. Empty text stands for the default, whatever the environment says: `cache_dir=""` is no cache.

    Raises:
        ArgumentError: a value cannot be used. The message names the field.
        ArgumentTypeError: a value has the wrong type.
    """

    concurrency: int | None = None
    """Reads of files in flight at once; for objects, the same times 50 connections. 1 to 1024."""
    chunk_bytesize: Size | None = None
    """Bytes of one read."""
    memory_limit: Size | None = None
    """Bytes held at once, at most. 0: as much as the largest tensor. -1: no limit."""
    direct_io: Switch | None = None
    """Read local files past the page cache."""
    gds: Switch | None = None
    """Read local files straight into GPU memory (GPUDirect Storage)."""
    pinned: Switch | None = None
    """Load host tensors into page-locked memory."""
    max_bandwidth: Size | None = None
    """Bytes per second of all reads together, at most. 0: no bound."""
    process_group_size: int | None = None
    """Processes of this node that load the same files. It wins over what a launcher has set."""
    s3_endpoint: str | None = None
    """URL of an S3-compatible store."""
    s3_use_virtual_addressing: bool | None = None
    """True: `bucket.host/key`. False: `host/bucket/key`."""
    s3_unsigned: bool | None = None
    """Send anonymous requests, for public buckets."""
    s3_max_retries: int | None = None
    """Attempts after the first, for each range of any object store."""
    s3_timeout: float | None = None
    """Seconds without an answer, or with less than 1 KiB each second, after which a request is tried again."""
    s3_transport: Literal["auto", "curl", "boto3"] | None = None
    """The library that moves the bytes of objects."""
    connections: int | None = None
    """Exact number of connections to object storage. 1 to 1024."""
    hedge: bool | None = None
    """Ask for a range that lags far behind the others a second time."""
    http_token: str | None = None
    """Bearer tokens of web servers: `HOST=TOKEN`, with commas between several. Nothing shows them."""
    gcs_use_anonymous_credentials: bool | None = None
    """Send anonymous requests to `gs://` buckets."""
    gcs_credential_file: Path | None = None
    """File of credentials for `gs://` URLs."""
    verify: bool | None = None
    """Compare objects with the checksums of their store."""
    cache_dir: Path | None = None
    """Folder of the node's cache of objects."""
    cache_size: Size | None = None
    """Bytes that the cache may have."""
    cache_offline: bool | None = None
    """Read the cache alone, and ask no store."""
    dist: Switch | None = None
    """Whether `is_distributed=True` shares the reads between ranks."""
    dist_global: bool | None = None
    """All ranks share the reads, not only those of a node."""
    dist_timeout: float | None = None
    """Seconds that a rank waits for another."""
    dist_fanout: Literal["auto", "memory", "device", "sockets"] | None = None
    """How ranks of a node pass each other what one of them has read."""
    trace: Path | None = None
    """File for an event trace of each load."""

    def __post_init__(self) -> None:
        for name, value in _given(self).items():
            text = _text(name, value)
            _parsed(name, text)
            if isinstance(value, str | os.PathLike):  # a secret, or a URL with a password, which repr hides
                object.__setattr__(self, name, text)

    def __repr__(self) -> str:
        """Show the fields that are set, without secrets."""
        return f"StreamerConfig({', '.join(f'{name}={value!r}' for name, value in _given(self).items())})"


def checked(config: StreamerConfig | None) -> StreamerConfig | None:
    """Return what a caller gave as `config`.

    Raises:
        ArgumentTypeError: it is something else.
    """
    if config is not None and not isinstance(config, StreamerConfig):
        raise ArgumentTypeError(
            f"config is a StreamerConfig, not {type(config).__name__}",
            remedy='write it as StreamerConfig(memory_limit="4GiB")',
        )
    return config


def parsed(config: StreamerConfig | None) -> dict[str, object]:
    """Return what a program has set, by the names of `Setting.field`. None: the default.

    Raises:
        ArgumentTypeError: `config` is something else.
    """
    config = checked(config)
    given = {} if config is None else _given(config)
    return {_SETTINGS[name].field: _parsed(name, _text(name, value)) for name, value in given.items()}


def _given(config: StreamerConfig) -> dict[str, Any]:
    values = ((field.name, getattr(config, field.name)) for field in fields(config))
    return {name: value for name, value in values if value is not None}


def _text(name: str, value: object) -> str:
    """Return a value as the variable has it."""
    types = _TYPES[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(sorted({each.__name__ for each in types}))
        raise ArgumentTypeError(f"{name} is {expected}, not {type(value).__name__}")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        text = str(int(value)) if isinstance(value, bool) else str(value)
    except ValueError:  # a number of more than 4300 digits
        raise ArgumentError(f"{name} is too large") from None
    return (Secret if _SETTINGS[name].secret else Url)(text)


def _parsed(name: str, text: str) -> object:
    parser, text = _SETTINGS[name].parser, type(text)(text.strip())
    if not text:
        return None
    try:
        value = parser.read(text)
        if parser.maximum is None or int(text) <= parser.maximum:
            return value
        expected = f"at most {parser.maximum}"
    except ValueError:
        expected = parser.expected
    raise ArgumentError(f"{name}={text!r} cannot be used", remedy=f"set it to {expected}", sep=": ")


def _types(hint: Any) -> tuple[type, ...]:
    """Return the classes that a value may have, of an annotation."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(each for part in get_args(hint) for each in _types(part))
    if get_origin(hint) is Literal:
        return (str,)
    if hint is type(None):
        return ()
    found = get_origin(hint) or hint
    return (float, int) if found is float else (found,)


_TYPES: Final = {name: _types(hint) for name, hint in get_type_hints(StreamerConfig).items()}
"""Name of each field -> the classes that its values may have."""
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
_SETTINGS: Final[dict[str, Setting]] = {
    field.name: _BY_NAME[PREFIX + field.name.upper()] for field in fields(StreamerConfig)
}
