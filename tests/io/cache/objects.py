"""Objects of a store that lives in memory, and caches for them."""

import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from typing_extensions import override

from runai_model_streamer.config import CacheConfig, DirectIO
from runai_model_streamer.io.cache.cache import NodeCache
from runai_model_streamer.io.cache.entry import Entry
from runai_model_streamer.io.cache.files import open_entry
from runai_model_streamer.io.cache.journal import About
from runai_model_streamer.io.cache.policy import CachePolicy
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from tests.sources import MemorySource

URL: Final = "s3://models/model.safetensors"
PIECE: Final = 64 << 10
POLICY: Final = CachePolicy(piece=PIECE, beginning=4096, free=1 << 40)
"""Nothing is left out."""


class MemoryObject(MemorySource):
    """An object with an ETag. Opening it fetches its first bytes, as a store does."""

    def __init__(self, data: bytes, etag: str | None = '"one"', path: str = URL, beginning: int = 0) -> None:
        super().__init__(path, data, kind=SourceKind.OBJECT)
        self._etag = etag
        self.beginning = beginning
        self.fetched: list[tuple[int, int]] = []
        """First byte and end of what was fetched after opening."""
        self.gate: Callable[[], None] | None = None
        """Called before each read that fetches."""

    @property
    @override
    def version(self) -> str | None:
        return self._etag

    @override
    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        end = offset + len(buffer)
        if end > self.beginning and len(buffer):
            if self.gate is not None:
                self.gate()
            self.fetched.append((max(offset, self.beginning), end))
        return super().read_into(offset, buffer)

    @property
    def bytes_fetched(self) -> int:
        """Bytes fetched, with those of opening it."""
        return self.beginning + sum(end - start for start, end in self.fetched)


class Gate:
    """Holds each read of an object that has it as its `gate`, until it is opened; then raises, if there is an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self._began, self._opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._began.set()
        assert self._opened.wait(60)
        if self._error is not None:
            raise self._error

    def await_read(self) -> None:
        """Wait until a read is held."""
        assert self._began.wait(60)

    def open(self) -> None:
        """Let reads go on."""
        self._opened.set()


class MemoryStore:
    """Opens objects of one URL, and keeps them."""

    def __init__(self, data: bytes, etag: str | None = '"one"') -> None:
        self.data, self.etag = data, etag
        self.opened: list[MemoryObject] = []

    def open(self, beginning: int | None) -> MemoryObject:
        """Open the object as it is now."""
        wanted = POLICY.beginning if beginning is None else beginning
        self.opened.append(MemoryObject(self.data, self.etag, beginning=min(wanted, len(self.data))))
        return self.opened[-1]

    @property
    def bytes_fetched(self) -> int:
        """Bytes fetched of all objects opened."""
        return sum(each.bytes_fetched for each in self.opened)


def make_cache(
    folder: Path,
    *,
    size: int = 1 << 30,
    offline: bool = False,
    policy: CachePolicy = POLICY,
    direct: DirectIO = DirectIO.AUTO,
    as_files: bool = True,
) -> NodeCache:
    """The cache of one load, which ends with the test.

    Its checksums need no package, and its size does not depend on how full the disk is.
    """
    return NodeCache(
        CacheConfig(str(folder), size, offline),
        direct,
        policy=policy,
        compute=lambda: zlib.crc32,
        as_files=as_files,
    )


def entry_at(folder: Path, about: About | None, boot: int = 7, direct: DirectIO = DirectIO.AUTO) -> Entry | None:
    """Open the entry `one` in a folder."""
    return open_entry(f"{folder}/one", about, direct, zlib.crc32, boot)


def read(source: Source, start: int, end: int) -> bytes:
    """The bytes of a range."""
    buffer = memoryview(bytearray(end - start))
    source.read_into(start, buffer)
    return bytes(buffer)


def files(folder: Path, end: str) -> list[Path]:
    """The files of a cache whose names end so."""
    return sorted(folder.rglob(f"*{end}"))
