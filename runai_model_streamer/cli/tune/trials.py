"""Runs the streamer over a sample of a checkpoint, with a given setting."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runai_model_streamer import FileChunks, FileStreamer
from runai_model_streamer.cli.tune.search import Setting
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.paths import is_object, kind_of
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import open_files
from runai_model_streamer.profiling import caches
from runai_model_streamer.report.load_report import BytesFrom
from runai_model_streamer.settings.environment import environment


class Checkpoint(NamedTuple):
    """The contents of the files, in order."""

    files: Sequence[tuple[str, int, list[int]]]
    """For each file its path, the offset of its data, and the sizes of its tensors in bytes."""

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max((size for _, _, sizes in self.files for size in sizes), default=0)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(sum(sizes) for _, _, sizes in self.files)

    def first(self, count: int) -> "Checkpoint":
        """Return the first tensors that have at least `count` bytes in total, or all."""
        taken = []
        for path, start, sizes in self.files:
            few = []
            for size in sizes:
                if count <= 0:
                    break
                few.append(size)
                count -= size
            if few:
                taken.append((path, start, few))
        return Checkpoint(taken)


def read_checkpoint(paths: Sequence[str]) -> Checkpoint:
    """Read the headers of the files.

    Raises:
        StreamerError: a file cannot be read, or is not safetensors.
    """
    with open_storage(None) as (storage, config):
        opened = open_files(storage, paths, config.concurrency_for(SourceKind.OBJECT))
        for source, _ in opened:
            source.close()
    return Checkpoint(
        [
            (path, header.data_start, [tensor.nbytes for tensor in header.tensors])
            for path, (_, header) in zip(paths, opened, strict=True)
        ]
    )


def current(paths: Iterable[str]) -> Setting:
    """Return the current setting for these files.

    Raises:
        ConfigError: a variable has an unusable value.
    """
    config = LoadConfig.from_environment()
    kinds = {kind_of(path) for path in paths}
    return Setting(
        max(config.concurrency_for(kind) for kind in kinds),
        max(config.chunk_for(kind) for kind in kinds),
        config.memory_limit,
        SourceKind.OBJECT in kinds,
    )


def min_chunk(paths: Iterable[str]) -> int:
    """Return the bytes of the shortest possible read of these files."""
    return max(LoadConfig(chunk_bytesize=1).chunk_for(kind_of(path)) for path in paths)


class Trials:
    """Runs loads, and keeps the origins of their bytes.

    Args:
        default: the current setting.
        device: the device of the tensors.
        cold: evict the files from the page cache before each run.
    """

    def __init__(self, default: Setting, device: str, *, cold: bool) -> None:
        self.sample = Checkpoint([])
        self.origins = BytesFrom()
        """Bytes of all runs after the warm-up, by origin."""
        self._default = default
        self._device = device
        self._cold = cold

    def warm_up(self, checkpoint: Checkpoint, maximum: float) -> tuple[int, float]:
        """Run once with the current setting, for at most `maximum` seconds after the first tensor.

        The tensors loaded until then become the sample.

        Returns:
            The bytes, and the seconds since the first tensor. They exclude work that a process does only once.
        """
        if self._cold:
            evict(path for path, _, _ in checkpoint.files)
        first: float | None = None
        count, seconds = 0, 0.0
        for size in self._stream(checkpoint):
            now = time.perf_counter()
            first = now if first is None else first
            count, seconds = count + size, now - first
            if seconds > maximum:
                break
        self.sample = checkpoint.first(count)
        self.origins = BytesFrom()
        return count, seconds

    def __call__(self, setting: Setting, maximum: float) -> tuple[float, float]:
        """Load with the setting, for at most `maximum` seconds; see `search.Measure`."""
        if self._cold:
            evict(path for path, _, _ in self.sample.files)
        count = 0
        with environment(setting.changes_from(self._default)):
            started = time.perf_counter()
            for size in self._stream(self.sample):
                count += size
                if time.perf_counter() - started > maximum:
                    break
        return count, time.perf_counter() - started

    def _stream(self, checkpoint: Checkpoint) -> Iterator[int]:
        chunks = [
            FileChunks.contiguous(index, path, start, sizes)
            for index, (path, start, sizes) in enumerate(checkpoint.files)
        ]
        with FileStreamer() as streamer:
            streamer.stream_files(chunks, device=self._device)
            try:
                for _, _, tensor in streamer.get_chunks():
                    yield tensor.nbytes
            finally:
                self.origins = _added(self.origins, streamer.report.bytes_from)


def _added(one: BytesFrom, other: BytesFrom) -> BytesFrom:
    return BytesFrom(*(getattr(one, each.name) + getattr(other, each.name) for each in dataclasses.fields(BytesFrom)))


def evict(paths: Iterable[str]) -> None:
    """Evict local files from the page cache.

    Raises:
        StreamerError: the kernel keeps one of them.
    """
    try:
        caches.evict(path for path in paths if not is_object(path))
    except StreamerError as error:
        raise StreamerError(
            f"--cold: {error.summary}",
            where=error.where,
            remedy=f"{error.remedy}{'; ' if error.remedy else ''}or leave out --cold",
            lead=None,
        ) from error
