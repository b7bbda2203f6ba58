"""The environment, read once for each load and validated once: one frozen `StreamerConfig`, passed down."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Final

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Url
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, round_up
from runai_model_streamer.settings.table import SETTINGS

MIB: Final = 1 << 20

UNLIMITED: Final = -1
"""Value of `RUNAI_STREAMER_MEMORY_LIMIT` that reads ahead without waiting."""

_DEFAULT_CONCURRENCY: Final = {SourceKind.FILE: 16, SourceKind.OBJECT: 8}
_DEFAULT_CHUNK: Final = 8 * MIB
"""Each read takes some Python, in turns. 4 GB of files on 2 CPUs, of what bare reads do with 4 / 8 MiB: warm, dropped
0.78 / 0.81, kept 0.93 / 1.00, cold 0.98 / 0.99, cold and kept 0.77 / 0.90. 16 and 24 MiB are no faster."""
_LEAST_CHUNK: Final = {SourceKind.FILE: 2 * MIB, SourceKind.OBJECT: 5 * MIB}


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
    max_retries: int = 8
    """Tries after the first for each range."""
    timeout: float = 30.0
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
    distribution_timeout: float = 600.0
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
        for name, value in _environment().items():
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
        env = _environment() if environ is None else environ
        found: dict[str, Any] = {}
        s3: dict[str, Any] = {}
        for setting in SETTINGS:
            group, _, field = setting.field.rpartition(".")
            values, defaults = (s3, _S3_DEFAULTS) if group else (found, _DEFAULTS)
            value = setting.read(env)
            if value is None:
                continue
            default = defaults[field]
            if field == "local_processes":  # of two variables, the larger number
                values[field] = max(value, values.get(field, default))
            else:  # of two variables, the first one of the table
                values.setdefault(field, type(default)(value) if isinstance(default, Enum) else value)
        return cls(**found, s3=S3Config(**s3))


_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in fields(StreamerConfig)}
_S3_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in fields(S3Config)}


def _environment() -> dict[str, Url]:
    """What is read of the environment. The rest may hold secrets, which error reporters would show with the frame."""
    return {setting.name: Url(os.environ[setting.name]) for setting in SETTINGS if setting.name in os.environ}
