"""The settings of a load: one frozen `LoadConfig`, validated once for each load.

They come from the environment, except for those that the program has set in a `StreamerConfig`.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, round_up
from runai_model_streamer.settings import streamer_config
from runai_model_streamer.settings.stores import (
    SECOND_ANSWERS,
    AzureConfig,
    GcsConfig,
    HubConfig,
    S3Config,
    S3Transport,
    WebConfig,
)
from runai_model_streamer.settings.table import SETTINGS

__all__ = [
    "FIRST_CONNECTIONS",
    "MAX_CONNECTIONS",
    "MIB",
    "UNLIMITED",
    "AzureConfig",
    "CacheConfig",
    "DirectIO",
    "Distribution",
    "FanOut",
    "GcsConfig",
    "GdsMode",
    "HubConfig",
    "LoadConfig",
    "PinnedMode",
    "S3Config",
    "S3Transport",
    "WebConfig",
]

MIB: Final = 1 << 20

UNLIMITED: Final = -1
"""Value of `RUNAI_STREAMER_MEMORY_LIMIT` for no limit."""

_DEFAULT_CONCURRENCY: Final = {SourceKind.FILE: 16, SourceKind.OBJECT: 8}
"""Of `RUNAI_STREAMER_CONCURRENCY`: reads of files; for objects, clients as the original's, of `_CLIENT` connections."""

_CLIENT: Final = 50
"""Connections of one of the original's clients, which is what its `RUNAI_STREAMER_CONCURRENCY` counts for objects."""

FIRST_CONNECTIONS: Final = 16
"""Connections to object storage to begin with."""

MAX_CONNECTIONS: Final = 512
"""The most connections to object storage, unless their number is set. Each is a thread and 8 MiB in flight: 320 of 40
MB/s fill 100 Gbit/s."""
_DEFAULT_CHUNK: Final = 8 * MIB
"""Each read costs some Python, which holds the GIL. 4 GB of files on 2 CPUs, as a part of the speed of bare reads, with
4 / 8 MiB: warm, dropped 0.78 / 0.81, kept 0.93 / 1.00, cold 0.98 / 0.99, cold and kept 0.77 / 0.90. 16 and 24 MiB are
not faster."""
_MIN_CHUNK: Final = {SourceKind.FILE: 2 * MIB, SourceKind.OBJECT: 5 * MIB}


class DirectIO(Enum):
    """When local files are read with `O_DIRECT`, past the page cache."""

    AUTO = "auto"
    NEVER = "0"
    ALWAYS = "1"


class GdsMode(Enum):
    """When cuFile reads local files straight into device memory (GPUDirect Storage)."""

    AUTO = "auto"
    """If the driver and the file's mount support it."""
    NEVER = "0"
    ALWAYS = "1"
    """Or an error that says why not."""


class PinnedMode(Enum):
    """When host tensors are loaded into page-locked memory."""

    AUTO = "auto"
    """If CUDA is initialised in the process, up to a bound."""
    NEVER = "0"
    ALWAYS = "1"
    """Or an error that says why not."""


class Distribution(Enum):
    """When `is_distributed=True` shares the reads between processes."""

    AUTO = "auto"
    """If torch's default process group has more than one rank. If not, each rank reads for itself; the log says so."""
    NEVER = "0"
    ALWAYS = "1"
    """As AUTO, but a warning if each rank reads for itself."""


class FanOut(Enum):
    """How the ranks of a node pass each other what one of them has read."""

    AUTO = "auto"
    """Through memory that they share; through sockets where they cannot, said in the log."""
    MEMORY = "memory"
    """Or an error that says why not."""
    DEVICE = "device"
    """By broadcasts between their GPUs, or an error that says why not."""
    SOCKETS = "sockets"


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The node's cache of objects."""

    folder: str | None = None
    """Where it is. None: there is none."""
    size: int | None = None
    """Bytes that it may have. None: as many as leave a tenth of the file system free."""
    offline: bool = False
    """Read from it alone, and ask no store."""


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """Settings of one load."""

    concurrency: int | None = None
    """Maximum number of reads of files in flight; for objects, the same times 50, up to 512. None: 16, and 8."""
    chunk_bytesize: int | None = None
    """Bytes of one read. None: 8 MiB."""
    memory_limit: int = UNLIMITED
    """Maximum number of bytes that the streamer holds. -1: no limit. 0: the size of the largest tensor."""
    direct_io: DirectIO = DirectIO.AUTO
    gds: GdsMode = GdsMode.AUTO
    pinned: PinnedMode = PinnedMode.AUTO
    local_processes: int = 1
    """Number of processes of this node that load the same files, as their launcher says."""
    max_bandwidth: int | None = None
    """Maximum bytes per second of all reads of a load together. None: no bound."""
    verify: bool = False
    """Compare objects with the checksums of their store."""
    distribution: Distribution = Distribution.AUTO
    distribute_globally: bool = False
    """All ranks share the reads (True), or the ranks of each node do (False)."""
    distribution_timeout: float = 600.0
    """Seconds that a rank waits for another. A caller's pause between two tensors counts."""
    fan_out: FanOut = FanOut.AUTO
    """How bytes that one rank has read reach the others of its node."""
    s3: S3Config = field(default_factory=S3Config)
    """Its retries, timeout and `ca_bundle` hold for all object stores."""
    web: WebConfig = field(default_factory=WebConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    gcs: GcsConfig = field(default_factory=GcsConfig)
    azure: AzureConfig = field(default_factory=AzureConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    vllm: bool = False
    """The plugin for vLLM takes the place of vLLM's own loader. Read when vLLM starts, not by a load."""
    sglang: bool = False
    """The same for SGLang."""
    trace: str | None = None
    """Path for an event trace of each load. `{pid}` and `{rank}` in it are replaced by process id and rank."""
    log_level: str | None = None
    """Name of the package's log level; None leaves it to the host, or INFO on stderr."""
    log_to_stderr: bool = False
    """Also print log lines to stderr."""

    def concurrency_for(self, kind: SourceKind) -> int:
        """Return the number of reads in flight for this kind of source: of objects to begin with, of files at most."""
        if kind is SourceKind.OBJECT:
            return min(self.s3.connections or FIRST_CONNECTIONS, self.max_concurrency_for(kind))
        return self.max_concurrency_for(kind)

    def max_concurrency_for(self, kind: SourceKind) -> int:
        """Return the maximum number of reads in flight for this kind of source."""
        count = self.concurrency or _DEFAULT_CONCURRENCY[kind]
        if kind is SourceKind.OBJECT:
            return self.s3.connections or min(_CLIENT * count, MAX_CONNECTIONS)
        return count

    def chunk_for(self, kind: SourceKind) -> int:
        """Return the bytes of one read from this kind of source.

        It is the setting, at least 2 MiB (files) or 5 MiB (objects), rounded up to whole pages: direct reads need them.
        """
        return round_up(max(self.chunk_bytesize or _DEFAULT_CHUNK, _MIN_CHUNK[kind]), PAGE)

    @property
    def second_answers(self) -> int:
        """The bytes of memory for answers to second requests. The memory limit counts them: they are a part of it."""
        if not self.s3.hedge or self.max_bandwidth:  # what is asked for a second time would not be paid for
            return 0
        if self.memory_limit == UNLIMITED:
            return 2 * SECOND_ANSWERS  # of hundreds of connections more are late
        part = min(self.memory_limit // (8 * self.local_processes), SECOND_ANSWERS)
        return part if part >= self.chunk_for(SourceKind.OBJECT) else 0

    @classmethod
    def for_ranks(cls, given: streamer_config.StreamerConfig | None = None) -> "LoadConfig":
        """Read only the settings by which ranks meet.

        A rank whose other settings cannot be used meets the others by these, to send them the error.

        Args:
            given: see `from_environment`.
        """
        usable: dict[str, str] = {}
        for name, value in _environment().items():
            if name.startswith("RUNAI_STREAMER_DIST"):
                with suppress(ConfigError):
                    cls.from_environment({name: value})
                    usable[name] = value
        return cls.from_environment(usable, given)

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, given: streamer_config.StreamerConfig | None = None
    ) -> "LoadConfig":
        """Read the `RUNAI_STREAMER_*` variables.

        Args:
            environ: the variables; None for the process's.
            given: settings of the program, which win. Variables for what it sets are not read.

        Raises:
            ConfigError: a value cannot be used. The message names the variable, the value and what it may be.
        """
        env = _environment() if environ is None else environ
        found: dict[str, Any] = dict(streamer_config.parsed(given))
        chosen = frozenset(found)
        for setting in SETTINGS:
            value: Any = None if setting.field in chosen else setting.read(env)
            if value is None:
                continue
            if setting.field == "local_processes":  # of several variables, the largest number
                found[setting.field] = max(value, found.get(setting.field, value))
            else:  # of two variables, the first one of the table
                found.setdefault(setting.field, value)
        groups: dict[str, dict[str, Any]] = {name: {} for name in ("", *_GROUPS)}
        for place, value in found.items():
            group, _, field = place.rpartition(".")
            default = _DEFAULTS[group][field]
            if value is not None:
                groups[group][field] = type(default)(value) if isinstance(default, Enum) else value
        plain = groups.pop("")
        return cls(**plain, **{name: _GROUPS[name](**values) for name, values in groups.items()})


_GROUPS: Final[Mapping[str, Any]] = {
    "s3": S3Config,
    "web": WebConfig,
    "hub": HubConfig,
    "gcs": GcsConfig,
    "azure": AzureConfig,
    "cache": CacheConfig,
}
"""The fields of `LoadConfig` that are groups of settings, and their classes."""
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    name: {field.name: field.default for field in fields(group)} for name, group in {"": LoadConfig, **_GROUPS}.items()
}


def _environment() -> dict[str, str]:
    """Copy the settings out of the environment, whose other variables may be secrets.

    Error reporters print the variables of a frame.
    """
    return {
        setting.name: (Secret if setting.secret else Url)(os.environ[setting.name])
        for setting in SETTINGS
        if setting.name in os.environ
    }
