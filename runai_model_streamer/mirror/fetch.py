"""Copies files and objects to a folder. It reads several files, and several ranges of each, at once."""

import mmap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from runai_model_streamer.errors import SourceChangedError
from runai_model_streamer.io.listing import Entry
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.mirror.target import PartialFile, TargetFolder
from runai_model_streamer.pipeline.pace import ReaderCount
from runai_model_streamer.ranges import ByteRange, split
from runai_model_streamer.threads.crew import Crew

JOIN_SECONDS: Final = 1.0
"""The most seconds that a failed pull waits for its threads. A thread that hangs longer ends by itself."""


def fetch(
    storage: Storage,
    entries: Sequence[Entry],
    destination: TargetFolder,
    pace: ReaderCount,
    chunk: int,
    memory: int,
    landed: Callable[[int], None] | None = None,
) -> None:
    """Copy every entry to its name in the destination. Return when all are complete.

    Args:
        pace: finds how many reads are in flight at once.
        chunk: the most bytes of one read.
        memory: the most bytes held at once; at least `chunk`.
        landed: called from many threads, with the number of bytes just written.

    Raises:
        StreamerError: the first error. Finished files stay; unfinished ones are removed.
    """
    _Fetch(storage, entries, destination, pace, chunk, memory, landed).run()


def _pieces(entry: Entry, chunk: int) -> Iterator[ByteRange]:
    """Return the reads that make up a file: for an empty file, one of zero bytes."""
    return split(ByteRange(0, entry.size), chunk) if entry.size else iter((ByteRange(0, 0),))


class _Stopped(Exception):  # noqa: N818 - control flow
    """Another thread has failed."""


class _File:
    """One file that is being copied."""

    def __init__(self, entry: Entry, pieces: int) -> None:
        self.entry = entry
        self.missing = pieces
        self.lock = threading.Lock()
        self.source: Source | None = None
        self.part: PartialFile | None = None

    def open(self, storage: Storage, destination: TargetFolder) -> tuple[Source | None, PartialFile]:
        """Open the source and the part, once. The caller holds the lock."""
        if self.part is None:
            if self.entry.size:
                self.source = storage.open(self.entry.path)
                if self.source.size != self.entry.size:
                    raise SourceChangedError(
                        f"has {self.source.size} bytes, and had {self.entry.size} a moment ago: it was written to "
                        "while it was being pulled",
                        where=self.entry.path,
                        remedy="pull again once nothing writes to it",
                    )
            self.part = destination.create(self.entry.name, self.entry.size)
        return self.source, self.part

    def close(self) -> None:
        """Close the source and the part. The caller holds the lock, or no thread is left."""
        if self.source is not None:
            self.source.close()
        if self.part is not None:
            self.part.close()


class _Fetch:
    """One call of `fetch`: its threads and their shared state."""

    def __init__(
        self,
        storage: Storage,
        entries: Sequence[Entry],
        destination: TargetFolder,
        pace: ReaderCount,
        chunk: int,
        memory: int,
        landed: Callable[[int], None] | None,
    ) -> None:
        self._storage = storage
        self._pace = pace
        self._crew = Crew("puller", "pull")
        self._left = sum(1 for entry in entries for _ in _pieces(entry, chunk))  # pieces that no thread has taken
        self._running = 0
        self._destination = destination
        self._landed = landed
        self._changed = threading.Condition()
        self._free = memory
        self._error: BaseException | None = None
        self._stopped = False
        self._open: set[_File] = set()
        self._turn = threading.Lock()
        self._work = self._all(entries, chunk)

    def _all(self, entries: Sequence[Entry], chunk: int) -> Iterator[tuple[_File, ByteRange]]:
        for entry in entries:
            pieces = list(_pieces(entry, chunk))
            file = _File(entry, len(pieces))
            self._open.add(file)
            for piece in pieces:
                yield file, piece

    def run(self) -> None:
        """Copy everything, with as many threads as are useful."""
        try:
            self._grow()
            self._crew.join()
        except BaseException as error:
            self._stop(error)
            raise
        finally:
            self._end()
        failure, self._error = self._error, None
        if failure is not None:
            try:
                raise failure
            finally:
                # Its traceback refers to this frame. The cycle would keep everything in the frames alive until gc runs.
                del failure

    def _grow(self) -> None:
        """Start the threads that have work."""
        with self._turn:
            while self._running < min(self._pace.readers, self._running + self._left) and not self._stopped:
                self._running += 1
                if not self._crew.add(self._run):
                    self._running -= 1
                    return

    def _end(self) -> None:
        alive = self._crew.join(JOIN_SECONDS)
        for file in list(self._open):
            if file.part is not None:
                file.part.discard()
            # A stuck thread keeps its files open until it ends.
            if not alive:
                file.close()

    def _run(self) -> None:
        try:
            while True:
                with self._turn:
                    work = None
                    if not self._stopped and self._running <= self._pace.readers:
                        work = next(self._work, None)
                    if work is None:
                        self._running -= 1
                        return
                    self._left -= 1
                self._copy(*work)
        except _Stopped:
            pass
        except BaseException as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            if self._stopped:
                return
            self._stopped, self._error = True, error
            self._changed.notify_all()
        self._storage.interrupt()
        for file in list(self._open):
            if file.source is not None:
                file.source.interrupt()  # a read may also wait for earlier bytes to be hashed

    def _copy(self, file: _File, span: ByteRange) -> None:
        with file.lock:
            if self._stopped:
                raise _Stopped
            source, part = file.open(self._storage, self._destination)
        if source is not None:
            with self._memory(span.size) as buffer:
                began = time.perf_counter()
                source.read_into(span.start, buffer)
                now = time.perf_counter()
                part.write(span.start, buffer)
            with self._changed:
                more = self._pace.landed(span.size, now - began, now, fetched=True)
            if more:
                self._grow()
            if self._landed is not None:
                self._landed(span.size)
        with file.lock:
            file.missing -= 1
            if file.missing or self._stopped:
                return
            part.finish(file.entry.modified_ns)
            file.close()
        self._open.discard(file)

    @contextmanager
    def _memory(self, size: int) -> Iterator[memoryview]:
        with self._changed:
            while self._free < size and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise _Stopped
            self._free -= size
        try:
            # Whole pages, which direct reads need. The last reference frees them. An explicit close would raise while
            # an error's traceback still has a reference.
            yield memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
