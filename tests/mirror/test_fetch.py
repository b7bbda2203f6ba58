"""Copying to a destination: how much is read, held and open at once."""

import threading
from pathlib import Path

import pytest
from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.listing import Entry
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.mirror.fetch import fetch
from runai_model_streamer.mirror.target import TargetFolder
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.connections import ConnectionPace
from tests.checkpoints import PATIENCE
from tests.sources import MemorySource


class Meter:
    """What is being read, and held, at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = self.reads = self.max_bytes = self.max_reads = 0

    def add(self, count: int, reads: int) -> None:
        with self._lock:
            self.bytes += count
            self.reads += reads
            self.max_bytes = max(self.max_bytes, self.bytes)
            self.max_reads = max(self.max_reads, self.reads)


class MeteredSource(MemorySource):
    def __init__(self, path: str, data: bytes, meter: Meter) -> None:
        super().__init__(path, data)
        self._meter = meter

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        self._meter.add(len(buffer), 1)
        try:
            return super().read_into(offset, buffer)
        finally:
            self._meter.add(-len(buffer), -1)


class MemoryStorage(Storage):
    """Opens what it was given."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(LoadConfig(), None, shared=False)
        self.files = files
        self.meter = Meter()
        self.opened: list[MemorySource] = []

    def open(self, path: str) -> Source:
        source = MeteredSource(path, self.files[path], self.meter)
        self.opened.append(source)
        return source

    def listing(self) -> list[Entry]:
        return [Entry(name, name, len(data), 10**18) for name, data in self.files.items()]


FILES = {f"f{n}": bytes([n]) * (n * 1000) for n in range(12)}


@pytest.mark.parametrize(
    ("concurrency", "chunk", "memory"), [(1, 500, 500), (4, 500, 500), (4, 500, 1700), (8, 10_000, 80_000)]
)
def test_no_more_is_read_and_held_at_once_than_allowed(
    tmp_path: Path, concurrency: int, chunk: int, memory: int
) -> None:
    storage = MemoryStorage(FILES)
    with TargetFolder(str(tmp_path)) as destination:
        fetch(storage, storage.listing(), destination, ConnectionPace(concurrency, concurrency, 0.0), chunk, memory)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
    assert storage.meter.max_bytes <= memory
    assert storage.meter.max_reads <= concurrency
    assert all(length <= chunk for source in storage.opened for _, length in source.reads)


def test_every_byte_is_read_once_and_every_source_is_closed(tmp_path: Path) -> None:
    storage = MemoryStorage(FILES)
    with TargetFolder(str(tmp_path)) as destination:
        fetch(storage, storage.listing(), destination, ConnectionPace(4, 4, 0.0), 700, 2800)
    assert sum(length for source in storage.opened for _, length in source.reads) == sum(map(len, FILES.values()))
    assert len(storage.opened) == 11  # one of the files is empty
    assert [source.closed for source in storage.opened] == [1] * 11


def test_after_an_error_every_source_is_closed_and_nothing_unfinished_is_left(tmp_path: Path) -> None:
    class Broken(MemoryStorage):
        def open(self, path: str) -> Source:
            if path == "f7":
                raise ReadError("f7: broken")
            return super().open(path)

    storage = Broken(FILES)
    with TargetFolder(str(tmp_path)) as destination, pytest.raises(ReadError, match="f7: broken"):
        fetch(storage, storage.listing(), destination, ConnectionPace(4, 4, 0.0), 700, 2800)
    assert all(source.closed for source in storage.opened)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left.items() <= FILES.items()
    assert "f7" not in left


def test_of_nothing_nothing_is_fetched(tmp_path: Path) -> None:
    storage = MemoryStorage({})
    with TargetFolder(str(tmp_path)) as destination:
        fetch(storage, [], destination, ConnectionPace(4, 4, 0.0), 700, 2800)
    assert list(tmp_path.iterdir()) == []


class Growing(ConnectionPace):
    """One read at a time at first, four after the third."""

    def __init__(self) -> None:
        super().__init__(1, 4, 0.0)
        self.reads = 0

    @override
    def landed(self, length: int, seconds: float, now: float, *, fetched: bool = True) -> bool:
        self.reads += 1
        if self.reads == 3:
            self.readers = 4
        return self.reads == 3


def test_as_many_read_as_are_useful_meanwhile(tmp_path: Path) -> None:
    storage, pace = MemoryStorage(FILES), Growing()
    early: set[str] = set()
    four: set[str] = set()
    together = threading.Barrier(4)

    def note(_: int) -> None:
        name = threading.current_thread().name
        if pace.readers == 1:
            early.add(name)
        elif name not in four:
            four.add(name)
            together.wait(PATIENCE)

    with TargetFolder(str(tmp_path)) as destination:
        fetch(storage, storage.listing(), destination, pace, 500, 4 * 500, note)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
    assert pace.reads == sum(-(-len(data) // 500) for data in FILES.values())
    assert early == {"runai-puller-0"}
    assert four == {f"runai-puller-{number}" for number in range(4)}


def test_where_fewer_are_useful_the_others_end_and_every_byte_comes(tmp_path: Path) -> None:
    storage, pace = MemoryStorage(FILES), ConnectionPace(4, 4, 0.0)

    def note(_: int) -> None:
        pace.readers = 1

    with TargetFolder(str(tmp_path)) as destination:
        fetch(storage, storage.listing(), destination, pace, 500, 4 * 500, note)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
