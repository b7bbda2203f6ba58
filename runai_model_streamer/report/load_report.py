"""The report of a load, `streamer.report`: counts, times and the bottleneck."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final, Literal, TypeAlias

from runai_model_streamer.io.cache_counts import CacheCounts
from runai_model_streamer.io.setup_time import SetupSeconds
from runai_model_streamer.origins import Origin
from runai_model_streamer.report.shared_load import SharedLoad
from runai_model_streamer.settings.units import rate_text, size_text

_WORTH_A_ROW: Final = 0.02
"""Share of a load's seconds from which the summary has a row for its set-up."""

Outcome: TypeAlias = Literal["not started", "running", "complete", "failed", "abandoned"]
"""State of a load. "complete": all tensors were yielded; "abandoned": the caller ended it before that."""

Bound: TypeAlias = Literal[
    "storage",
    "network",
    "cpu",
    "copy",
    "memory",
    "caller",
    "imports",
    "compiling",
    "credentials",
    "connecting",
    "too short",
]
"""The bottleneck of a load. "copy" is the path between host memory and the device. "imports", "compiling",
"credentials" and "connecting" are the stages of `SetupSeconds`."""

Held: TypeAlias = Literal["", "maximum", "no faster", "refused", "cpu", "idle"]
"""What kept a load from more connections to object storage: there may be no more; more were tried; the store refused
requests or did not answer; CPUs were busy; they waited for memory or for the caller. "": it was too short to tell."""


@dataclass(frozen=True, slots=True)
class BytesFrom:
    """Bytes read, by origin, including bytes between tensors; see `io.source.Origin`."""

    page_cache: int = 0
    """Bytes copied from the page cache or an in-memory file system."""
    buffered: int = 0
    """Bytes read through the page cache. Whether they were cached is unknown."""
    disk: int = 0
    """Bytes read past the page cache, by direct I/O or GPUDirect."""
    object_storage: int = 0
    other_ranks: int = 0
    """Bytes that other ranks of the load have read (`is_distributed`)."""

    @property
    def all(self) -> int:
        """The sum of all origins."""
        return sum(getattr(self, origin.field) for origin in Origin)


@dataclass(frozen=True, slots=True)
class ReaderSeconds:
    """Time of reader threads by activity, in thread-seconds: 16 readers have 16 in one second."""

    page_cache: float = 0.0
    """Reading, by origin of the bytes, with the fields of `BytesFrom`."""
    buffered: float = 0.0
    disk: float = 0.0
    object_storage: float = 0.0
    other_ranks: float = 0.0
    cast: float = 0.0
    """Casting, and waiting for memory to cast from."""
    copy: float = 0.0
    """Waiting for a pinned slot, and queueing copies to the device."""
    memory: float = 0.0
    """Waiting for memory to be returned, or behind a reader that waits for it; on CUDA, waiting for the caller."""
    rest: float = 0.0
    """Idle: reads were memory copies, and more of them than CPUs would not help."""

    @property
    def read(self) -> float:
        """Time in reads, from all origins."""
        return sum((getattr(self, origin.field) for origin in Origin), 0.0)

    @property
    def all(self) -> float:
        """The sum of all activities."""
        return self.read + self.cast + self.copy + self.memory + self.rest


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a load and the values they resulted in. Contains no secrets."""

    concurrency: int = 0
    """The most reads in flight at once (RUNAI_STREAMER_CONCURRENCY, RUNAI_STREAMER_CONNECTIONS)."""
    first_concurrency: int = 0
    """Reads in flight at first, while they wait for storage. More follow as long as that is faster."""
    chunk_bytesize: int = 0
    """The most bytes of one read (RUNAI_STREAMER_CHUNK_BYTESIZE): the larger of the values for files and objects."""
    memory_limit: int | None = None
    """The most bytes held at once, from RUNAI_STREAMER_MEMORY_LIMIT: 0 becomes the largest tensor, a node's limit this
    rank's part. None: no limit. On CUDA it is the setting itself, which limits pinned memory."""
    direct_io: str = "auto"
    """RUNAI_STREAMER_DIRECT_IO: "auto", "0" or "1"."""
    gds: str = "auto"
    """RUNAI_STREAMER_GDS: "auto", "0" or "1"."""
    max_bandwidth: int | None = None
    """The most bytes per second (RUNAI_STREAMER_MAX_BANDWIDTH); None: no limit."""
    verify: bool = False
    """RUNAI_STREAMER_VERIFY."""
    transport: str | None = None
    """The library that read objects, such as "libcurl/8.14.1"; None: no object was read."""
    dtype: str | None = None
    """The dtype that tensors were cast to, such as "torch.bfloat16"; None: no cast."""
    ranks: int = 1
    """Ranks that shared the reads (`is_distributed`)."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The report of one load, up to now: `streamer.report`.

    A GB is 10**9 bytes. Seconds are wall-clock time unless a field says otherwise.

    `plan_seconds`, `wait_seconds`, `make_seconds`, `place_seconds`, `caller_seconds` and `close_seconds` divide the
    time of the caller's thread; they add up to `seconds`. The readers work at the same time. `reader_seconds` divides
    their time, and `reader_seconds_in_wait` the part of it during which the caller's thread waited for bytes. The
    verdict uses that part.
    """

    outcome: Outcome = "running"
    error: str | None = None
    """Type and message of the error that ended a failed load."""
    device: str = "cpu"
    """The device of the yielded tensors, such as "cuda:0"."""
    files: int = 0
    """Files and objects of the request."""
    tensors: int = 0
    """Tensors yielded so far (for `FileStreamer`, ranges), counted by group."""
    total_tensors: int = 0
    """Tensors of the whole load."""
    bytes: int = 0
    """Bytes of the tensors yielded so far, as stored in the files."""
    total_bytes: int = 0
    """Bytes of all tensors of the load, as stored in the files."""
    bytes_read: int = 0
    """Bytes read, without headers. More than the tensors' if bytes lie between them, or reads are widened to whole
    pages."""
    bytes_from: BytesFrom = field(default_factory=BytesFrom)
    """`bytes_read`, by origin."""
    reads: int = 0
    """Number of reads, without headers."""
    ways: dict[str, int] = field(default_factory=dict)
    """How local files have been read, and why -> number of files."""
    retries: int = 0
    """Requests to object storage that were repeated, including those for headers."""
    cache: CacheCounts | None = None
    """Bytes of the node's cache; None: there is none (RUNAI_STREAMER_CACHE_DIR)."""
    connections: tuple[tuple[float, int], ...] = ()
    """Seconds of the load, and the most connections to object storage from then on. Empty: no objects, or shared."""
    connections_held_by: Held = ""
    """What kept their number where it was at the end."""

    seconds: float = 0.0
    """Time from the call that started the load until its end, or until now."""
    first_tensor_seconds: float | None = None
    """Time from the same call until the first tensor was yielded; None: none yet."""
    plan_seconds: float = 0.0
    """Opening files, reading and validating headers, and planning: from the call until reads begin."""
    plan_cpu_seconds: float = 0.0
    """CPU time of the caller's thread during `plan_seconds`."""
    setup: SetupSeconds = field(default_factory=SetupSeconds)
    """The part of it that a load does before it can read: imports, compiling, credentials, connecting. A later load in
    the process does without most of it."""
    wait_seconds: float = 0.0
    """Waiting for bytes to land, and starting reader threads, since the first already read while others start."""
    make_seconds: float = 0.0
    """Making tensors from landed bytes. Each group's first tensors are timed; the others are estimated from them."""
    place_seconds: float = 0.0
    """Joining parts of `select=`, copying to `into=`, and copying or casting tensors as they are yielded, if that did
    not happen during reads."""
    caller_seconds: float = 0.0
    """The caller's own code: before it asked for the first tensor, and between tensors."""
    close_seconds: float = 0.0
    """Ending threads, waiting for device copies, and freeing memory."""

    readers: int = 0
    """Number of reader threads."""
    reader_seconds: ReaderSeconds = field(default_factory=ReaderSeconds)
    """Time of reader threads by activity, in thread-seconds."""
    reader_seconds_in_wait: ReaderSeconds = field(default_factory=ReaderSeconds)
    """The part of `reader_seconds` during `wait_seconds`."""
    reader_connect_seconds: float = 0.0
    """The part of `reader_seconds.object_storage` in which readers made connections: name resolution, TCP, TLS."""
    reader_cpu_seconds: float = 0.0
    """CPU time of reader threads that have ended."""
    reader_delay_seconds: float | None = None
    """Thread-seconds that reader threads that have ended waited for a CPU. None: the kernel does not report it
    (/proc/thread-self/schedstat)."""
    caller_delay_seconds: float | None = None
    """The same for the caller's thread, while it took tensors."""
    process_cpu_seconds: float = 0.0
    """CPU time of all threads of the process during the load, including unrelated threads."""
    peak_memory: int = 0
    """The most bytes held at once, as the memory limit counts them: on the host, memory that bytes land in; on CUDA,
    pinned memory."""
    shared: SharedLoad | None = None
    """This rank's part; None where it read all that it wanted by itself."""
    settings: Settings = field(default_factory=Settings)
    """The load's settings."""

    bound_by: Bound = "too short"
    """The bottleneck of the load; see `verdict.judge`."""
    verdict: str = ""
    """A sentence about the bottleneck, with the setting that would change it."""
    shares: dict[str, float] = field(default_factory=dict)
    """Shares of `seconds`, by the names of `bound_by`. They add up to 1; empty if the load was too short."""

    @property
    def complete(self) -> bool:
        """Whether all tensors have been yielded."""
        return self.outcome == "complete"

    @property
    def gb_per_second(self) -> float:
        """Average speed of the load so far, in GB of tensors per second; 0.0 if no time has passed."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def __str__(self) -> str:
        """Return a summary of a few lines. `repr` has all fields."""
        return "\n".join(f"{name:<10}{value}" for name, value in rows(self))

    def _repr_html_(self) -> str:
        """Return the same summary as an HTML table, for notebooks."""
        # Notebooks align cells to the right.
        left = 'style="text-align: left"'
        cells = "".join(
            f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(value)}</td></tr>" for name, value in rows(self)
        )
        return f"<table>{cells}</table>"

    def as_dict(self) -> dict[str, Any]:
        """Return all fields and properties as values that JSON can hold. Nested ones are dicts."""
        found = dataclasses.asdict(self)
        found["connections"] = [list(each) for each in self.connections]
        return found | {"complete": self.complete, "gb_per_second": self.gb_per_second}

    def to_json(self, indent: int | None = None) -> str:
        """Return `as_dict` as JSON, with `indent` spaces for each level, or on one line."""
        return json.dumps(self.as_dict(), indent=indent)


def rows(report: LoadReport) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the summary."""
    first = report.first_tensor_seconds
    yield "outcome", report.outcome + (f": {report.error}" if report.error else "")
    yield "loaded", f"{report.tensors} of {report.total_tensors} tensors, {size_text(report.bytes)}, to {report.device}"
    yield "time", f"{report.seconds:.2f} s" + ("" if first is None else f", first tensor after {first:.3f} s")
    yield "speed", rate_text(report.bytes, report.seconds)
    origins = {each.field: getattr(report.bytes_from, each.field) for each in Origin}
    read = ", ".join(f"{name.replace('_', ' ')} {size_text(count)}" for name, count in origins.items() if count)
    yield "read from", read or "nothing"
    if report.shared is not None:
        yield "shared", str(report.shared)
    if report.cache is not None:
        yield "cache", str(report.cache)
    yield from (("files", f"{count} {way}, {report.readers} readers") for way, count in report.ways.items())
    setup = report.setup
    if setup.all >= _WORTH_A_ROW * report.seconds > 0.0:
        yield "set-up", str(setup)
    yield "memory", f"{size_text(report.peak_memory)} held at most"
    yield "verdict", report.verdict
