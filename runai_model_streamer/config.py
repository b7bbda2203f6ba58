"""The environment, read once for each load and validated once: one frozen `StreamerConfig`, passed down."""

import logging
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Url
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, round_up

MIB: Final = 1 << 20

UNLIMITED: Final = -1
"""Value of `RUNAI_STREAMER_MEMORY_LIMIT` that reads ahead without waiting."""

_DEFAULT_CONCURRENCY: Final = {SourceKind.FILE: 16, SourceKind.OBJECT: 8}
_DEFAULT_CHUNK: Final = 8 * MIB
"""Each read takes some Python, in turns. 4 GB of files on 2 CPUs, of what bare reads do with 4 / 8 MiB: warm, dropped
0.78 / 0.81, kept 0.93 / 1.00, cold 0.98 / 0.99, cold and kept 0.77 / 0.90. 16 and 24 MiB are no faster."""
_LEAST_CHUNK: Final = {SourceKind.FILE: 2 * MIB, SourceKind.OBJECT: 5 * MIB}
_MOST_CONCURRENCY: Final = 1024
"""Each is a thread, and for object storage a connection."""

_S3_MAX_RETRIES: Final = 8
_S3_TIMEOUT: Final = 30.0
_DIST_TIMEOUT: Final = 600.0
_DAY: Final = 86400
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")
_READ: Final = ("RUNAI_STREAMER_", "LOCAL_WORLD_SIZE", "REQUESTS_CA_BUNDLE")
_MIN_BANDWIDTH: Final = 64 << 10
"""Bytes per second: less than this is a number of megabytes, most likely."""


class DirectIO(Enum):
    """When local files are read past the page cache."""

    AUTO = "auto"
    NEVER = "0"
    ALWAYS = "1"


class GdsMode(Enum):
    """When kvikio reads local files straight into device memory (GPUDirect Storage)."""

    AUTO = "auto"
    """Where the driver and the file's mount support it."""
    NEVER = "0"
    ALWAYS = "1"
    """Or an error that says why not."""


class PinnedMode(Enum):
    """When tensors on the host are loaded into page-locked memory."""

    AUTO = "auto"
    """Where CUDA is initialised in the process, up to a bound."""
    NEVER = "0"
    ALWAYS = "1"
    """Or an error that says why not."""


class Distribution(Enum):
    """Whether `is_distributed=True` shares the reads between processes."""

    AUTO = "auto"
    """Where torch's default process group has more than one rank; else ordinary streaming, said in the log."""
    NEVER = "0"
    ALWAYS = "1"
    """As AUTO, and ordinary streaming instead is a warning."""


class S3Transport(Enum):
    """What moves the bytes of objects."""

    AUTO = "auto"
    """libcurl where it and numba are found, else boto3."""
    CURL = "curl"
    BOTO3 = "boto3"


@dataclass(frozen=True, slots=True)
class S3Config:
    """How object storage is reached; who may is said by `S3Credentials` or by boto3's own chain."""

    endpoint: str | None = None
    """URL of an S3-compatible store; None leaves it to boto3 (AWS_ENDPOINT_URL, the profile, else AWS itself)."""
    virtual_addressing: bool = True
    """bucket.host/key (True) or host/bucket/key (False)."""
    unsigned: bool = False
    """Anonymous requests, for public buckets."""
    max_retries: int = _S3_MAX_RETRIES
    """Tries after the first for each range."""
    timeout: float = _S3_TIMEOUT
    """Seconds without an answer, or without a byte, after which a request is given up and tried again."""
    transport: S3Transport = S3Transport.AUTO
    ca_bundle: str | None = None
    """File of certificates to trust where neither AWS_CA_BUNDLE nor the profile names one."""


@dataclass(frozen=True, slots=True)
class StreamerConfig:
    """Settings of one load."""

    concurrency: int | None = None
    """Reads in flight at once; None: 16 for files, 8 for object storage."""
    chunk_bytesize: int | None = None
    """Bytes of one read; None: 8 MiB."""
    memory_limit: int = UNLIMITED
    """Bytes the streamer may hold; -1 no limit, 0 as much as the largest tensor."""
    direct_io: DirectIO = DirectIO.AUTO
    gds: GdsMode = GdsMode.AUTO
    pinned: PinnedMode = PinnedMode.AUTO
    local_processes: int = 1
    """Processes of this node that load the same files, as their launcher says."""
    max_bandwidth: int | None = None
    """Bytes per second that all reads of a load take together at most; None: as many as there are."""
    verify: bool = False
    """Whether objects are held against the checksums that their store has of them."""
    distribution: Distribution = Distribution.AUTO
    distribute_globally: bool = False
    """All ranks share the reads (True), or those of each node (False)."""
    distribution_timeout: float = _DIST_TIMEOUT
    """Seconds that a rank waits for another, a caller's pause between two tensors included."""
    s3: S3Config = S3Config()
    trace: str | None = None
    """File for an event trace of each load; `{pid}` and `{rank}` in its name stand for the process and its rank."""
    log_level: str | None = None
    """Name of the package's log level; None leaves it to the host, or INFO."""
    log_to_stderr: bool = False
    """Print log lines to stderr, whatever the host does with them."""

    def concurrency_for(self, kind: SourceKind) -> int:
        """Reads in flight at once for this kind of source."""
        return self.concurrency or _DEFAULT_CONCURRENCY[kind]

    def chunk_for(self, kind: SourceKind) -> int:
        """Bytes of one read from this kind of source.

        The setting, but at least 2 MiB (files) or 5 MiB (objects), and whole pages, which direct reads need.
        """
        return round_up(max(self.chunk_bytesize or _DEFAULT_CHUNK, _LEAST_CHUNK[kind]), PAGE)

    @classmethod
    def for_ranks(cls) -> "StreamerConfig":
        """What ranks meet by, for one whose other settings cannot be used and that has to tell the others so."""
        usable: dict[str, str] = {}
        for name, value in _settings().items():
            if name.startswith("RUNAI_STREAMER_DIST"):
                with suppress(ConfigError):
                    cls.from_environment({name: value})
                    usable[name] = value
        return cls.from_environment(usable)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "StreamerConfig":
        """Read the `RUNAI_STREAMER_*` variables.

        Raises:
            ConfigError: a value that cannot be used; the message names the variable, the value and what it may be.
        """
        env = _settings() if environ is None else environ
        return cls(
            concurrency=_whole(env, "RUNAI_STREAMER_CONCURRENCY", 0, least=1, most=_MOST_CONCURRENCY) or None,
            chunk_bytesize=_whole(env, "RUNAI_STREAMER_CHUNK_BYTESIZE", 0, least=1, unit=" of bytes") or None,
            memory_limit=_whole(env, "RUNAI_STREAMER_MEMORY_LIMIT", UNLIMITED, least=-1, unit=" of bytes"),
            direct_io=_direct_io(env),
            gds=_auto_or_flag(env, "RUNAI_STREAMER_GDS", GdsMode.AUTO),
            pinned=_auto_or_flag(env, "RUNAI_STREAMER_PINNED", PinnedMode.AUTO),
            local_processes=max(
                _whole(env, "LOCAL_WORLD_SIZE", 1, least=1),
                _whole(env, "RUNAI_STREAMER_PROCESS_GROUP_SIZE", 1, least=1),
            ),
            max_bandwidth=_bandwidth(env),
            verify=_flag(env, "RUNAI_STREAMER_VERIFY", False),
            distribution=_auto_or_flag(env, "RUNAI_STREAMER_DIST", Distribution.AUTO),
            distribute_globally=_flag(env, "RUNAI_STREAMER_DIST_GLOBAL", False),
            distribution_timeout=_seconds(env, "RUNAI_STREAMER_DIST_TIMEOUT", _DIST_TIMEOUT),
            s3=S3Config(
                endpoint=Url(env.get("RUNAI_STREAMER_S3_ENDPOINT", "").strip()) or None,
                virtual_addressing=_flag(env, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", True),
                unsigned=_flag(env, "RUNAI_STREAMER_S3_UNSIGNED", False),
                max_retries=_whole(env, "RUNAI_STREAMER_S3_MAX_RETRIES", _S3_MAX_RETRIES, least=0),
                timeout=_seconds(env, "RUNAI_STREAMER_S3_TIMEOUT", _S3_TIMEOUT),
                transport=_s3_transport(env),
                ca_bundle=env.get("REQUESTS_CA_BUNDLE", "").strip() or None,
            ),
            trace=_trace(env),
            log_level=_log_level(env),
            log_to_stderr=_flag(env, "RUNAI_STREAMER_LOG_TO_STDERR", False),
        )


def _settings() -> dict[str, Url]:
    """What is read of the environment: the rest of it, in which secrets are, is no variable of a frame."""
    return {name: Url(os.environ[name]) for name in os.environ if name.startswith(_READ)}


def _refused(name: str, text: str, expected: str) -> ConfigError:
    return ConfigError(f"{name}={text!r} cannot be used", remedy=f"set it to {expected}", sep=": ")


def _whole(
    env: Mapping[str, str], name: str, default: int, *, least: int, most: int | None = None, unit: str = ""
) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    value = None
    with suppress(ValueError):
        value = int(text)
    if value is None or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise _refused(name, text, f"a whole number{unit}, {bounds}")
    return value


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "").strip()
    if not text:
        return default
    value = math.nan
    with suppress(ValueError):
        value = float(text)
    if not 0 < value <= _DAY:
        raise _refused(name, text, f"a number of seconds above 0, at most {_DAY}")
    return value


def _bandwidth(env: Mapping[str, str]) -> int | None:
    name = "RUNAI_STREAMER_MAX_BANDWIDTH"
    text = env.get(name, "").strip() or "0"
    value = -1
    with suppress(ValueError):  # more digits than Python reads
        value = int(text) if text.isdecimal() else -1
    if value and value < _MIN_BANDWIDTH:
        raise _refused(name, text, f"a whole number of bytes per second, at least {_MIN_BANDWIDTH}, or 0 for no bound")
    return value or None


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise _refused(name, text, "0 or 1")


def _log_level(env: Mapping[str, str]) -> str | None:
    name = "RUNAI_STREAMER_LOG_LEVEL"
    level = env.get(name, "").strip().upper()
    if level and level not in logging.getLevelNamesMapping():
        raise _refused(name, level, "DEBUG, INFO, WARNING or ERROR")
    return level or None


def _trace(env: Mapping[str, str]) -> str | None:
    name = "RUNAI_STREAMER_TRACE"
    text = env.get(name, "").strip()
    unknown = set(_PLACEHOLDER.findall(text)) - {"{pid}", "{rank}"}
    if unknown or text.endswith("/") or "\0" in text:
        raise _refused(name, text, "a file's path, in which {pid} and {rank} may stand for the process and its rank")
    return text or None


def _direct_io(env: Mapping[str, str]) -> DirectIO:
    # The original streamer's spelling, on which only 1 had a meaning.
    default = DirectIO.ALWAYS if env.get("RUNAI_STREAMER_DIRECTIO") == "1" else DirectIO.AUTO
    return _auto_or_flag(env, "RUNAI_STREAMER_DIRECT_IO", default)


_AutoOrFlag = TypeVar("_AutoOrFlag", DirectIO, GdsMode, PinnedMode, Distribution)


def _auto_or_flag(env: Mapping[str, str], name: str, default: _AutoOrFlag) -> _AutoOrFlag:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    try:
        return type(default)(text)
    except ValueError:
        raise _refused(name, text, "auto, 0 or 1") from None


def _s3_transport(env: Mapping[str, str]) -> S3Transport:
    name = "RUNAI_STREAMER_S3_TRANSPORT"
    text = env.get(name, "").strip().lower()
    try:
        return S3Transport(text or "auto")
    except ValueError:
        raise _refused(name, text, "auto, curl or boto3") from None
