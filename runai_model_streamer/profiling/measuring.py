"""`measure` times the same load with alternating settings; `record` writes the trace of one load."""

import itertools
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import torch

from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.profiling.caches import evict, warm
from runai_model_streamer.profiling.s3server import S3Server
from runai_model_streamer.report.load_report import LoadReport
from runai_model_streamer.settings.environment import environment
from runai_model_streamer.streamer import SafetensorsStreamer

T = TypeVar("T")
OneOrMore: TypeAlias = T | Sequence[T]

Path: TypeAlias = str | os.PathLike[str]

Files: TypeAlias = Path | Sequence[Path] | S3Server
"""A local path or URL, several of them, or a server, for all its objects."""

Cache: TypeAlias = Literal["warm", "cold"]

_VARIABLES: Final = ("concurrency", "chunk_bytesize", "memory_limit", "direct_io", "gds")
"""Settings with an environment variable: `concurrency` is RUNAI_STREAMER_CONCURRENCY."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Loads with the same settings."""

    settings: Mapping[str, str | int]
    """The settings of the loads, such as {"source": "disk", "cache": "cold", "concurrency": 8}."""
    size: int
    """Bytes of all tensors, as stored in the files."""
    seconds: tuple[float, ...]
    """Seconds of each load, from the call that starts it until all tensors have arrived (on a GPU: all copies are done)
    and the streamer is closed."""
    reports: tuple[LoadReport, ...]
    """The report of each load; none for other loaders."""
    cpu_seconds: tuple[float, ...] = ()
    """CPU seconds of the whole process during each load; empty if they were not measured."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Speed of each load, in GB of tensors per second. A GB is 10**9 bytes."""
        return tuple(self.size / seconds / 1e9 for seconds in self.seconds)

    @property
    def rate(self) -> float:
        """The median of `rates`."""
        return statistics.median(self.rates)

    @property
    def cpu_per_gb(self) -> float | None:
        """The median of the CPU seconds for each GB of tensors; None if they were not measured."""
        return statistics.median(self.cpu_seconds) / self.size * 1e9 if self.cpu_seconds and self.size else None

    @property
    def peak_memory(self) -> int:
        """The most bytes that any of the loads held; see `LoadReport.peak_memory`. 0 without reports."""
        return max((report.peak_memory for report in self.reports), default=0)


def measure(
    source: Files | Mapping[str, Files],
    *,
    cache: OneOrMore[Cache] = "warm",
    concurrency: OneOrMore[int] | None = None,
    chunk_bytesize: OneOrMore[int] | None = None,
    memory_limit: OneOrMore[int] | None = None,
    direct_io: OneOrMore[str] | None = None,
    gds: OneOrMore[str] | None = None,
    device: OneOrMore[str] = "cpu",
    runs: int = 5,
) -> list[Measurement]:
    """Load the files with every combination of the given settings, `runs` times each. Drop tensors as they arrive.

    Combinations alternate, and each round begins with a different one, so that drifts of the machine affect all of
    them. A warm-up load of one tensor for each keeps imports and finding credentials out of the figures.
    Everything runs in this process.

    Args:
        source: files, or several sets of files by name: `{"disk": [path], "S3": server}`.
        cache: "warm" reads local files, and those of an `S3Server`, into the page cache before each load. "cold" evicts
            them, and only them. It has no effect on URLs of other stores.
        concurrency: values of `RUNAI_STREAMER_CONCURRENCY`. Here and below, None keeps the environment's.
        chunk_bytesize: values of `RUNAI_STREAMER_CHUNK_BYTESIZE`.
        memory_limit: values of `RUNAI_STREAMER_MEMORY_LIMIT`.
        direct_io: values of `RUNAI_STREAMER_DIRECT_IO`.
        gds: values of `RUNAI_STREAMER_GDS`. It is ignored on a CPU.
        device: the device of the tensors, such as "cpu" or "cuda:0".
        runs: loads of each combination.

    Returns:
        A measurement for each combination, in the order of the arguments.

    Raises:
        StreamerError: a load failed, or `evict` cannot evict a file.
        ArgumentError: there is nothing to measure.
    """
    sources = dict(source) if isinstance(source, Mapping) else {"": source}
    dimensions: dict[str, Sequence[Any]] = {
        "source": list(sources),
        "cache": several(cache),
        "concurrency": several(concurrency),
        "chunk_bytesize": several(chunk_bytesize),
        "memory_limit": several(memory_limit),
        "direct_io": several(direct_io),
        "gds": several(gds),
        "device": several(device),
    }
    variants: list[_Variant] = []
    for values in itertools.product(*dimensions.values()):
        variant = _variant(dict(zip(dimensions, values, strict=True)), sources)
        if variant not in variants:
            variants.append(variant)
    if not variants or runs < 1:
        raise ArgumentError(
            "there is nothing to measure", remedy="give at least one value of each setting, and one run", sep=": "
        )
    for variant in variants:
        variant.load(tensors=1)
    loads: list[list[_Done]] = [[] for _ in variants]
    for turn in range(runs):
        for offset in range(len(variants)):
            index = (turn + offset) % len(variants)
            loads[index].append(variants[index].load())
    return [
        Measurement(
            variant.settings,
            done[0].size,
            tuple(load.seconds for load in done),
            tuple(load.report for load in done),
            tuple(load.cpu_seconds for load in done),
        )
        for variant, done in zip(variants, loads, strict=True)
    ]


class _Done(NamedTuple):
    size: int
    seconds: float
    report: LoadReport
    cpu_seconds: float


@dataclass(frozen=True)
class _Variant:
    settings: dict[str, str | int]
    paths: tuple[Path, ...]
    local: tuple[Path, ...]
    """Files to warm or evict."""
    environment: dict[str, str]
    cache: Cache
    device: str

    def load(self, tensors: int | None = None, pause: float = 0.0) -> _Done:
        """Load all tensors, or the first `tensors`, and pause after each. Warm or evict the files first."""
        (evict if self.cache == "cold" else warm)(self.local)
        return self.stream(tensors, pause)

    def stream(self, tensors: int | None = None, pause: float = 0.0) -> _Done:
        """As `load`, with the files as they are."""
        with environment(self.environment):
            started, cpu = time.perf_counter(), time.process_time()
            with SafetensorsStreamer() as streamer:
                streamer.stream_files(self.paths, device=self.device)
                for _ in itertools.islice(streamer.get_tensors(), tensors):
                    if pause:
                        time.sleep(pause)
                size = streamer.total_size
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return _Done(size, seconds, streamer.report, cpu)


def _variant(chosen: dict[str, Any], sources: Mapping[str, Files]) -> _Variant:
    files = sources[chosen["source"]]
    settings = {name: value for name, value in chosen.items() if value is not None and value != ""}
    if chosen["device"] == "cpu":
        settings.pop("gds", None)
    environment = {f"RUNAI_STREAMER_{name.upper()}": str(settings[name]) for name in _VARIABLES if name in settings}
    paths, local = paths_of(files)
    if isinstance(files, S3Server):
        environment |= files.environment
    if not local:
        settings.pop("cache")
    return _Variant(settings, paths, local, environment, chosen["cache"], chosen["device"])


def paths_of(files: Files) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return what to load, and which local files its bytes lie in."""
    if isinstance(files, S3Server):
        return files.urls, files.files
    paths = (files,) if isinstance(files, str | os.PathLike) else tuple(files)
    return paths, tuple(path for path in paths if "://" not in os.fspath(path))


def load_once(paths: Sequence[Path]) -> tuple[int, float, float]:
    """Load these files onto the host, with the environment's settings. Return bytes, seconds and CPU seconds."""
    done = _variant({"source": "", "device": "cpu", "cache": "warm"}, {"": tuple(paths)}).stream()
    return done.size, done.seconds, done.cpu_seconds


def several(value: OneOrMore[Any] | None) -> Sequence[Any]:
    """Return the values of an argument that may be one value; `None` is a value."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def record(
    source: Files,
    trace: Path,
    *,
    cache: Cache = "warm",
    pause: float = 0.0,
    concurrency: int | None = None,
    chunk_bytesize: int | None = None,
    memory_limit: int | None = None,
    direct_io: str | None = None,
    gds: str | None = None,
    device: str = "cpu",
) -> LoadReport:
    """Load once, drop tensors as they arrive, and write the trace to a file, for `plots.timeline`.

    A warm-up load of one tensor comes first, as in `measure`.

    Args:
        source: the files to load.
        trace: the file to write.
        cache: see `measure`.
        pause: seconds that the caller sleeps after each tensor.
        concurrency: see `measure`.
        chunk_bytesize: see `measure`.
        memory_limit: see `measure`.
        direct_io: see `measure`.
        gds: see `measure`.
        device: see `measure`.

    Raises:
        StreamerError: see `measure`.
        ConfigError: the file cannot be written.
    """
    chosen = {
        "source": "",
        "cache": cache,
        "concurrency": concurrency,
        "chunk_bytesize": chunk_bytesize,
        "memory_limit": memory_limit,
        "direct_io": direct_io,
        "gds": gds,
        "device": device,
    }
    variant = _variant(chosen, {"": source})
    variant.load(tensors=1)
    with environment({"RUNAI_STREAMER_TRACE": os.path.abspath(trace)}):
        return variant.load(pause=pause).report
