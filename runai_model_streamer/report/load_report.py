"""What a load did, how long each part of it took, and what bound it: `streamer.report`."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal, TypeAlias

from runai_model_streamer.origins import Origin

Outcome: TypeAlias = Literal["not started", "running", "complete", "failed", "abandoned"]
"""State of a load: none yet; going on; all tensors given out; ended by an error; ended by the caller before that."""

Bound: TypeAlias = Literal["storage", "network", "cpu", "copy", "memory", "caller", "setup", "too short"]
"""What a load mostly waited for. "setup" is what a process does once before it
reads objects. "copy" is what is between host memory and the device."""


@dataclass(frozen=True, slots=True)
class BytesFrom:
    """Bytes that were read, by where they came from, with what was read beside the tensors; see `io.source.Origin`."""

    page_cache: int = 0
    """Copied from the page cache, or from a file system in memory."""
    buffered: int = 0
    """Read through the page cache, without knowing whether they were in it."""
    disk: int = 0
    """Direct reads, past the page cache, and GPUDirect."""
    object_storage: int = 0
    other_ranks: int = 0
    """Sent by the ranks that share the load (`is_distributed`)."""

    @property
    def all(self) -> int:
        """Their sum."""
        return sum(getattr(self, origin.field) for origin in Origin)


@dataclass(frozen=True, slots=True)
class ReaderSeconds:
    """What reader threads did; in thread-seconds, summed over all of them, so that 16 readers have 16 in a second."""

    page_cache: float = 0.0
    """Reading, by where the bytes came from; as the fields of `BytesFrom`."""
    buffered: float = 0.0
    disk: float = 0.0
    object_storage: float = 0.0
    other_ranks: float = 0.0
    cast: float = 0.0
    """Casting what was read, and waiting for memory to cast it from."""
    copy: float = 0.0
    """Waiting for a pinned slot, and queueing copies to the device."""
    memory: float = 0.0
    """Waiting for memory that has to be given back first, or behind the reader that does; on CUDA, for the caller."""
    rest: float = 0.0
    """Resting: reads were copies from memory, of which more at once than CPUs are of no use."""

    @property
    def read(self) -> float:
        """The time in reads, from wherever."""
        return sum((getattr(self, origin.field) for origin in Origin), 0.0)

    @property
    def all(self) -> float:
        """Their sum."""
        return self.read + self.cast + self.copy + self.memory + self.rest


@dataclass(frozen=True, slots=True)
class Settings:
    """What a load ran with: the environment's settings, and what they came to. No secrets."""

    concurrency: int = 0
    """Reads in flight at once, at most (RUNAI_STREAMER_CONCURRENCY)."""
    first_concurrency: int = 0
    """Reads in flight to begin with, while they wait for storage: a local disk gets more while that makes it faster."""
    chunk_bytesize: int = 0
    """Bytes of one read, at most (RUNAI_STREAMER_CHUNK_BYTESIZE); the larger of those for files and for objects."""
    memory_limit: int | None = None
    """Bytes held at once, at most, as the load took RUNAI_STREAMER_MEMORY_LIMIT: 0 has become the largest tensor, a
    node's limit this rank's part. None: no limit. On CUDA, the setting: it bounds pinned memory there."""
    direct_io: str = "auto"
    """RUNAI_STREAMER_DIRECT_IO: "auto", "0" or "1"."""
    gds: str = "auto"
    """RUNAI_STREAMER_GDS: "auto", "0" or "1"."""
    max_bandwidth: int | None = None
    """Bytes per second (RUNAI_STREAMER_MAX_BANDWIDTH); None: no bound."""
    verify: bool = False
    """RUNAI_STREAMER_VERIFY."""
    transport: str | None = None
    """What moved the bytes of objects, such as "libcurl/8.14.1"; None: no object was read."""
    dtype: str | None = None
    """What tensors were cast to, such as "torch.bfloat16"; None: they were not."""
    ranks: int = 1
    """Ranks that shared the reads (`is_distributed`)."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One load, as far as it has come: `streamer.report`.

    A GB is 10**9 bytes. Seconds are wall-clock time, but where they are said to be something else.

    `plan_seconds`, `wait_seconds`, `make_seconds`, `place_seconds`, `caller_seconds` and `close_seconds` are the
    caller's thread's, one after the other: they add up to `seconds`. Meanwhile the readers worked; `reader_seconds`
    says at what, and `reader_seconds_in_wait` at what while the caller's thread waited for bytes, which is what the
    verdict goes by.
    """

    outcome: Outcome = "running"
    error: str | None = None
    """What ended a load that failed: the error's type and message."""
    device: str = "cpu"
    """Where the tensors are given out, such as "cuda:0"."""
    files: int = 0
    """Files and objects that the load was asked for."""
    tensors: int = 0
    """Tensors given out so far (of `FileStreamer`, ranges), counted group by group."""
    total_tensors: int = 0
    """Tensors of the whole load."""
    bytes: int = 0
    """Bytes of the tensors given out so far, as they are in the files."""
    total_bytes: int = 0
    """Bytes of all tensors of the load, as they are in the files."""
    bytes_read: int = 0
    """Bytes that were read: more than those of tensors, where bytes lie between them, or reads are widened to whole
    pages. Headers are left aside."""
    bytes_from: BytesFrom = field(default_factory=BytesFrom)
    """`bytes_read`, by where they came from."""
    reads: int = 0
    """How many there were, those of headers left aside."""
    retries: int = 0
    """Requests to object storage that were made again, of headers too."""

    seconds: float = 0.0
    """From the call that started the load until its end, or until now."""
    first_tensor_seconds: float | None = None
    """From the same call until the first tensor was given out; None: none was yet."""
    plan_seconds: float = 0.0
    """Opening files, reading and validating headers, planning: the call that starts the load, until reads begin."""
    plan_cpu_seconds: float = 0.0
    """CPU time of the caller's thread in it."""
    setup_seconds: float = 0.0
    """The part of it until there was a client of object storage: boto3 and numba were imported, callbacks compiled, and
    credentials found. A later load in the process does without most of it."""
    wait_seconds: float = 0.0
    """Waiting for bytes to land; and starting reader threads, of which the first read while others are started."""
    make_seconds: float = 0.0
    """Making tensors of what has landed: each group's first ones are timed, the others taken to be like them."""
    place_seconds: float = 0.0
    """Putting together parts of `select=`, and copying or casting tensors as they are given out, where that does not
    happen on the way."""
    caller_seconds: float = 0.0
    """In the caller's own code: before it asked for the first tensor, and between one and the next."""
    close_seconds: float = 0.0
    """Ending threads, waiting for the device's copies, freeing memory."""

    readers: int = 0
    """Reader threads."""
    reader_seconds: ReaderSeconds = field(default_factory=ReaderSeconds)
    """What they did, in thread-seconds."""
    reader_seconds_in_wait: ReaderSeconds = field(default_factory=ReaderSeconds)
    """What they did of it during `wait_seconds`."""
    reader_cpu_seconds: float = 0.0
    """CPU time of reader threads that have ended."""
    reader_delay_seconds: float | None = None
    """Thread-seconds that reader threads that have ended were ready to run, but had no CPU. None: the kernel does not
    say (/proc/thread-self/schedstat)."""
    caller_delay_seconds: float | None = None
    """The same for the caller's thread, while it took tensors."""
    process_cpu_seconds: float = 0.0
    """CPU time of all threads of the process during the load, those that have nothing to do with it too."""
    peak_memory: int = 0
    """Most bytes held at once, as they count against the limit: on the host, memory that bytes land in; on CUDA,
    pinned memory."""
    settings: Settings = field(default_factory=Settings)
    """What the load ran with."""

    bound_by: Bound = "too short"
    """What the load mostly waited for; see `verdict.judge`."""
    verdict: str = ""
    """The same in a sentence, with the setting that would change it."""
    shares: dict[str, float] = field(default_factory=dict)
    """What `seconds` went to, by the names of `bound_by`; they add up to 1, but for a load too short to tell."""

    @property
    def complete(self) -> bool:
        """Whether all tensors have been given out."""
        return self.outcome == "complete"

    @property
    def gb_per_second(self) -> float:
        """Bytes of tensors per second of the whole load so far, in GB/s; 0.0 for a load that has taken no time."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def __str__(self) -> str:
        """Some lines for people; `repr` has all fields."""
        return "\n".join(f"{name:<10}{value}" for name, value in rows(self))

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows(self))
        return f"<table>{cells}</table>"

    def as_dict(self) -> dict[str, Any]:
        """All fields and properties, nested ones as dicts, of what JSON can say."""
        found = dataclasses.asdict(self)
        return found | {"complete": self.complete, "gb_per_second": self.gb_per_second}

    def to_json(self, indent: int | None = None) -> str:
        """`as_dict` as JSON; `indent` spaces for each level, or all on one line."""
        return json.dumps(self.as_dict(), indent=indent)


def rows(report: LoadReport) -> Iterator[tuple[str, str]]:
    """What people want to know of a load, as names and values."""
    first = report.first_tensor_seconds
    yield "outcome", report.outcome + (f": {report.error}" if report.error else "")
    yield "loaded", f"{report.tensors} of {report.total_tensors} tensors, {_gb(report.bytes)}, to {report.device}"
    yield "time", f"{report.seconds:.2f} s" + ("" if first is None else f", first tensor after {first:.3f} s")
    yield "speed", f"{report.gb_per_second:.2f} GB/s"
    origins = {each.field: getattr(report.bytes_from, each.field) for each in Origin}
    read = ", ".join(f"{name.replace('_', ' ')} {_gb(count)}" for name, count in origins.items() if count)
    yield "read from", read or "nothing"
    yield "memory", f"{_gb(report.peak_memory)} held at most"
    yield "verdict", report.verdict


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
