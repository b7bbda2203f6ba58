"""An object that is read from the node's cache as far as it is there, and else from its store."""

import threading
import time
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from runai_model_streamer.config import DirectIO
from runai_model_streamer.errors import InterruptedReadError
from runai_model_streamer.io.cache.entry import Entry
from runai_model_streamer.io.cache.extents import Piece, Run
from runai_model_streamer.io.cache.policy import CachePolicy
from runai_model_streamer.io.cache.trouble import Trouble
from runai_model_streamer.io.cache.writer import Writer
from runai_model_streamer.io.cache_counts import Counter
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.files.requests import MAX_REQUEST, RequestSizes
from runai_model_streamer.io.source import OpenFile, Source, SourceWrapper
from runai_model_streamer.origins import Origin
from runai_model_streamer.ranges import PAGE, ByteRange

_FARTHEST: Final = (Origin.OBJECT, Origin.DISK, Origin.BUFFERED, Origin.PAGE_CACHE)

LEAST_BYTES: Final = 1 << 20
"""Bytes of an object in the cache from which on reads of them are planned, which takes two more descriptors."""


class CachedFile(FileSource):
    """The data file of an entry. Pieces of it are written meanwhile: what was not there, or was damaged."""

    @override
    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Read whole pages past the page cache also if the range begins within one: so do the reads of objects."""
        begun = min(-offset % PAGE, len(buffer))
        if begun:
            origin = super().read_into(offset, buffer[:begun])
            if begun == len(buffer):
                return origin
        return super().read_into(offset + begun, buffer[begun:])

    def read_whole(self) -> None:
        """Ask the disk for all bytes of a read at once: each request waits for a CPU, and the network needs them."""
        self._requests.at_least(MAX_REQUEST)

    @override
    def require_unchanged(self, span: ByteRange) -> None:
        """Do nothing: its bytes are compared with checksums instead."""


class CachedSource(SourceWrapper):
    """An object with an entry in the cache; see `Source`.

    If the entry has all of it, this is a file to whoever plans reads: they go past the page cache, and as many are in
    flight as suits the disk. If not, it is an object with `local` ranges, which are read in the same way.

    What is read from the store is written to the entry, unless another process does. A read of what another process
    fetches waits for it.

    Args:
        source: the store's object; closed with this one.
        entry: of its version; closed with this one.
        writer: writes to the entry.
        counter: counts bytes.
        trouble: told when the entry cannot be read.
        policy: how long to wait.
        direct: whether the file is read past the page cache.
        requests: sets how many bytes one direct read asks for.
        shared: whether other processes of this node load the same object.
        as_file: whether what is there may count as a file. Processes that plan the same reads need the same plan,
            whatever each of them finds in the cache.
    """

    def __init__(
        self,
        source: Source,
        entry: Entry,
        writer: Writer,
        counter: Counter,
        trouble: Trouble,
        policy: CachePolicy,
        direct: DirectIO = DirectIO.AUTO,
        requests: RequestSizes | None = None,
        *,
        shared: bool = False,
        as_file: bool = True,
    ) -> None:
        super().__init__(source)
        self._entry = entry
        self._writer, self._counter, self._trouble, self._policy = writer, counter, trouble, policy
        self._stopped = threading.Event()
        self._broken = False
        self._closed = False
        self._file: CachedFile | None = None
        self._local: Sequence[ByteRange] | None = () if as_file else None
        if as_file and (entry.complete or entry.bytes >= LEAST_BYTES):
            self._file = file = CachedFile(f"/proc/self/fd/{entry.fd}", direct, shared=shared, requests=requests)
            self.streams = file.streams
            if entry.complete:
                self.kind, self.alignment = file.kind, file.alignment
            else:
                runs = entry.runs(ByteRange(0, self.size))
                self._local = [ByteRange(run.start, run.end) for run in runs if run.held]

    @property
    @override
    def local(self) -> Sequence[ByteRange] | None:
        """What the cache had when the object was opened."""
        return self._local

    @property
    @override
    def way(self) -> str | None:
        """How the cached bytes have been read so far, if that is from a file."""
        if self._file is None:
            return None
        return f"from the node's cache{', as far as it had them' if self._local else ''}, {self._file.way}"

    @override
    def open_file(self) -> OpenFile | None:
        """Return the cached file, if it has all bytes, and they are known to be right."""
        whole = self._file is not None and self._entry.complete
        return self if whole and self._entry.trusted and not self._broken else None

    def fileno(self) -> int:
        """Return the descriptor of the cached file; see `OpenFile`."""
        return self._entry.fd

    def pieces(self, span: ByteRange) -> tuple[ByteRange]:
        """Return the range as one piece; see `OpenFile`."""
        self._counter.add(read=span.size)
        return (span,)

    def require_unchanged(self, span: ByteRange) -> None:
        """Do nothing: entries are not changed; see `OpenFile`."""

    @override
    def origin(self, offset: int, length: int) -> Origin:
        """Return where the bytes would come from: from the store if any would."""
        if self._broken or not self._entry.has(ByteRange(offset, offset + length)):
            return self._source.origin(offset, length)
        return Origin.BUFFERED if self._file is None else self._file.origin(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` from `offset`; see `Source.read_into`.

        Returns:
            The origin of the bytes; of several, the most distant.
        """
        end = offset + len(buffer)
        if self._broken or end > self.size or not buffer:
            return self._source.read_into(offset, buffer)
        origins: set[Origin] = set()
        position = offset
        while position < end:
            run = self._entry.runs(ByteRange(position, end))[0]
            view = buffer[position - offset : run.end - offset]
            origin = self._from_cache(run, view) if run.held and not self._broken else self._from_store(run, view)
            if origin is not None:  # else what is there has changed
                origins.add(origin)
                position = run.end
        return next(each for each in _FARTHEST if each in origins)

    def _from_cache(self, run: Run, view: memoryview) -> Origin | None:
        """Read bytes that are here. Return None if some turned out not to be."""
        try:
            if self._file is None:
                self._entry.read(run.start, view)
                origin = Origin.BUFFERED
            else:
                origin = self._file.read_into(run.start, view)
            doubted = self._entry.doubted(ByteRange(run.start, run.end))
            damaged = [piece for piece in doubted if not self._is_right(piece, run, view)]
        except (OSError, EOFError) as error:
            self._broken = True
            self._trouble.cannot_read(error)
            return None
        if damaged:
            self._counter.add(damaged=sum(piece.end - piece.start for piece in damaged))
            self._trouble.damaged(self.path, damaged)
            return None
        self._counter.add(read=len(view))
        self._writer.saved(len(view))
        return origin

    def _is_right(self, piece: Piece, run: Run, view: memoryview) -> bool:
        if run.start <= piece.start and piece.end <= run.end:
            return self._entry.compare(piece, view[piece.start - run.start : piece.end - run.start])
        whole = memoryview(bytearray(piece.end - piece.start))
        self._entry.read(piece.start, whole)
        return self._entry.compare(piece, whole)

    def _from_store(self, run: Run, view: memoryview) -> Origin | None:
        """Fetch bytes that are not here. Return None if another process has fetched some of them meanwhile."""
        entry, start, end = self._entry, run.start, run.end
        if self._file is not None:
            self._file.read_whole()
        if not self._claim(start, end):
            origin = self._source.read_into(start, view)
            self._counter.add(left_out=len(view), no_room=(self._entry.budget == 0) * len(view))
            return origin
        try:
            if entry.runs(ByteRange(start, end)) != [Run(start, end, held=False)]:
                entry.release(start, end)
                return None
            before = self._writer.now()
            origin = self._source.read_into(start, view)
        except BaseException:
            entry.release(start, end)
            raise
        self._writer.put(entry, start, view, before)
        return origin

    def _claim(self, start: int, end: int) -> bool:
        """Lock a range, to write it, and learn what others have written. Return False if it is not to be written."""
        entry = self._entry
        if self._broken or not entry.writable or entry.budget == 0 or not self._writer.writes:
            return False
        pause, given_up = self._policy.first_pause, time.monotonic() + self._policy.patience
        try:
            while not entry.claim(start, end):
                if time.monotonic() > given_up:
                    return False
                if self._stopped.wait(pause):
                    raise InterruptedReadError(f"{ByteRange(start, end)} not read: the streamer is closing")
                pause = min(2 * pause, self._policy.longest_pause)
            entry.refresh()
        except InterruptedReadError:
            raise
        except OSError as error:  # no locks there, or somebody has removed the files
            self._trouble.cannot_write(error)
            entry.release(start, end)
            return False
        return True

    def write_beginning(self, length: int) -> None:
        """Write the first bytes, which opening the object has mostly fetched, before this returns.

        Raises:
            ReadError: they cannot be read from the store.
        """
        span = ByteRange(0, min(length, self.size))
        if self._entry.has(span) or not self._claim(*span):
            return
        try:
            before, beginning = self._writer.now(), memoryview(bytearray(span.size))
            self._source.read_into(0, beginning)
        except BaseException:
            self._entry.release(*span)
            raise
        self._writer.put(self._entry, 0, beginning, before, always=True)

    @override
    def interrupt(self) -> None:
        """End waits, and interrupt the store's object."""
        self._stopped.set()
        super().interrupt()

    @override
    def close(self) -> None:
        """Close the entry."""
        super().close()
        if self._closed:
            return
        self._closed = True
        if self._file is not None:
            self._file.close()
        self._entry.close()
