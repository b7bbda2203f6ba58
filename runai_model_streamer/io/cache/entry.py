"""One version of an object in the cache: a sparse file with its bytes at their offsets, and the journal of its pieces.

Whoever uses an entry holds a lock that all users share, so that it is not removed meanwhile. Whoever fetches a range
locks it, so that nobody else does. A piece counts once its record is in the journal, and the record is written after
the bytes. So a process may be killed at any moment. After the machine has crashed, a record may be on the disk without
its bytes: then the checksum is wrong.

Not every read computes checksums, since a node may read its cache at 100 GB/s. An entry is *sealed* when its last user
leaves it, and all its pieces have been written or compared since it was sealed before. The seal names the boot, and the
times at which the file was written to and changed. As long as these are the same, only the kernel has had the bytes.
Else pieces are compared as they are read: after a boot, and after anybody has written to the file.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.cache import locks
from runai_model_streamer.io.cache.bytes_at import allocate, free, read_at, write_at
from runai_model_streamer.io.cache.extents import Extents, Piece, Run, cut
from runai_model_streamer.io.cache.journal import About, Journal, Kind, Record
from runai_model_streamer.io.cache.names import JOURNAL
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.ranges import PAGE, ByteRange

Compute: TypeAlias = Callable[[memoryview], int]
"""Returns the checksum of bytes, without the GIL."""

MUCH: Final = 1 << 20
"""Bytes of a write from which on room for the whole object is allocated, and bytes of unused room that are freed."""


class Entry:
    """An open entry, made by `files.open_entry`. Thread safe. `OSError`s come from the cache's file system.

    Args:
        fd: the data file, on which the users' lock is held. It is closed with the entry.
        stem: path of its files, without their ends.
        about: what object it is.
        begin: where the records of its journal begin.
        writable: whether the file may be written to.
        direct: whether to write past the page cache.
        compute: returns the checksum of bytes.
        boot: identifies the boot; 0 if unknown.
    """

    def __init__(
        self,
        fd: int,
        stem: str,
        about: About,
        begin: int,
        writable: bool,
        direct: DirectIO,
        compute: Compute,
        boot: int,
    ) -> None:
        self.fd = fd
        """The data file."""
        self.about, self.writable = about, writable
        self.budget: int | None = None
        """Bytes that may still be written; None: as many as the object has."""
        self._journal = Journal(stem + JOURNAL, begin, fd)
        self._compute = compute
        self._boot = boot
        self._direct = not file_systems.why_buffered(file_systems.name(fd), direct, shared=False)
        self._lock = threading.Lock()
        self._allocating, self._parting = threading.Lock(), threading.Lock()
        self._allocated = False
        self._extents = Extents()
        self._doubted: set[Piece] = set()
        self._seal: Record | None = None
        if not self._is_sealed_whole():
            self._learn(again=True)
        if self._fits(self._seal):
            self._doubted.clear()
        with contextlib.suppress(OSError):
            os.utime(stem + JOURNAL)  # when it was used last

    def _is_sealed_whole(self) -> bool:
        """Look at the last record alone: an object of 5 GB has more than a thousand."""
        last = self._journal.complete()
        if not self._fits(last):
            return False
        self._seal = last
        return self._extents.add(Piece(0, self.about.size, 0))

    def _learn(self, *, again: bool = False) -> None:
        """Read the records that are new, or all of them. The caller holds the lock, or is the only one."""
        for kind, first, second, third in self._journal.news(again=again):
            if kind in (Kind.SEALED, Kind.COMPLETE):
                self._seal = Record(kind, first, second, third)
            elif kind == Kind.HELD and first < second <= self.about.size:
                piece = Piece(first, second, third)
                if self._extents.named(first, second) != piece and self._extents.add(piece):
                    self._doubted.add(piece)
            elif kind == Kind.LOST:
                self._drop(self._extents.named(first, second))

    def _drop(self, piece: Piece | None) -> None:
        if piece is not None:
            self._extents.remove(piece)
            self._doubted.discard(piece)

    def refresh(self) -> None:
        """Learn what others have written meanwhile."""
        with self._lock:
            self._learn()

    @property
    def complete(self) -> bool:
        """Whether all bytes of the object are here."""
        return self._extents.bytes == self.about.size

    @property
    def trusted(self) -> bool:
        """Whether every piece that is here is known to be right."""
        return not self._doubted

    @property
    def bytes(self) -> int:
        """Bytes of the object that are here."""
        return self._extents.bytes

    def runs(self, span: ByteRange) -> list[Run]:
        """Divide a range into what is here, and what is not."""
        with self._lock:
            return list(self._extents.runs(span))

    def has(self, span: ByteRange) -> bool:
        """Return whether all of a range is here."""
        return all(run.held for run in self.runs(span))

    def pieces(self) -> Sequence[Piece]:
        """Return all pieces, in order."""
        with self._lock:
            return list(self._extents)

    def doubted(self, span: ByteRange) -> Sequence[Piece]:
        """Return the pieces in a range that have to be compared."""
        if not self._doubted:
            return ()
        with self._lock:
            return [piece for piece in self._extents.within(*span) if piece in self._doubted]

    def compare(self, piece: Piece, view: memoryview) -> bool:
        """Compare the bytes of a piece with its checksum. If they differ, forget the piece, here and for all others."""
        if self._compute(view) == piece.checksum:
            with self._lock:
                self._doubted.discard(piece)
            return True
        self.lose([piece])
        return False

    def doubt_all(self) -> None:
        """Compare every piece, whoever has compared it before."""
        with self._lock:
            self._extents = Extents()
            self._learn(again=True)

    def lose(self, pieces: Iterable[Piece]) -> None:
        """Forget pieces whose bytes are damaged."""
        lost = list(pieces)
        with self._lock:
            for piece in lost:
                self._drop(piece)
        if self.writable:
            with contextlib.suppress(OSError):
                self._journal.append([Record(Kind.LOST, piece.start, piece.end) for piece in lost])

    def read(self, start: int, view: memoryview) -> None:
        """Read bytes through the page cache; see `read_at`."""
        read_at(self.fd, start, view)

    def claim(self, start: int, end: int) -> bool:
        """Lock a range in order to fetch it. Return False if somebody else has a part of it locked."""
        return locks.lock(self.fd, start, end - start)

    def release(self, start: int, end: int) -> None:
        """Unlock a range, or a part of one."""
        with self._lock:
            if self.fd >= 0:
                locks.unlock(self.fd, start, end - start)

    @property
    def shared(self) -> bool:
        """Whether anybody else uses the entry now."""
        return locks.is_locked(self.fd, locks.USERS, 1)

    def keep(self, room: int) -> None:
        """Write at most `room` bytes, fewer than the object has; none at all while another user of the entry does."""
        if locks.lock(self.fd, locks.KEEPING, 1):
            self.budget = room
            self._journal.append([Record(Kind.PROMISED, self._extents.bytes + room)])
        else:
            self.budget = 0

    def write(self, start: int, view: memoryview, longest: int | None = None) -> int:
        """Write bytes, and record them. Return how many: fewer, from the first on, if there is no room for all.

        Writes past the page cache copy the bytes if their place in its page is not that of `start`.

        Args:
            start: the first byte.
            view: the bytes.
            longest: bytes of a piece, at most; None: all are one.
        """
        spans = self._with_room(cut(ByteRange(start, start + len(view)), longest or len(view)))
        if not spans:
            return 0
        view = view[: spans[-1].end - start]
        pieces = [Piece(*span, self._compute(view[span.start - start : span.end - start])) for span in spans]
        if len(view) >= MUCH:
            self._allocate()
        # Not both at once: ext4 lets a write through the page cache wait for all direct ones of the file.
        if not write_at(self.fd, start, view, self._alone, direct=self._direct):
            self._direct = False
        self._journal.append([Record(Kind.HELD, *piece) for piece in pieces])
        with self._lock:
            for piece in pieces:
                self._extents.add(piece)
        return len(view)

    def _with_room(self, spans: Iterable[ByteRange]) -> list[ByteRange]:
        """Return the first of these pieces that there is room for, which they take."""
        with self._lock:
            if self.budget is None:
                return list(spans)
            taken = []
            for span in spans:
                needed = span.size + 2 * PAGE  # the pages at its ends may be new, too
                if needed > self.budget:
                    break
                self.budget -= needed
                taken.append(span)
            return taken

    def _allocate(self) -> None:
        """Allocate room for the object, once. It counts as taken while the entry is used."""
        with self._allocating:
            if self._direct and self.budget is None and not self._allocated:
                self._allocated = True
                allocate(self.fd, self.about.size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from writing a part of a page, whose other part the caller may write again."""
        with self._parting:
            try:
                locks.await_lock(self.fd, locks.PARTING, 1)
                yield
            finally:
                locks.unlock(self.fd, locks.PARTING, 1)

    def close(self) -> None:
        """Seal the entry, unless others use it, and close it."""
        with contextlib.suppress(OSError):
            self._seal_it()
        with contextlib.suppress(OSError):
            locks.unlock(self.fd, 0, 0)
        with self._lock:
            fd, self.fd = self.fd, -1
        os.close(fd)

    def __del__(self) -> None:
        # A reader stuck in a read keeps the entry beyond its load's close, until the thread ends.
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def _seal_it(self) -> None:
        if not self.writable or not locks.lock(self.fd, locks.USERS, 1):
            return
        self._learn()
        if os.fstat(self.fd).st_blocks * 512 - self.bytes >= MUCH:  # by this load, or one that was killed
            whole = ByteRange(0, self.about.size)
            free(self.fd, (ByteRange(run.start, run.end) for run in self._extents.runs(whole) if not run.held))
        if not (self._boot and len(self._extents)):
            return
        now = self._seal_of_now(Kind.COMPLETE if self.complete else Kind.SEALED)
        if self.trusted and now != self._seal:
            self._journal.append([now])

    def _fits(self, seal: Record | None) -> bool:
        return seal is not None and seal == self._seal_of_now(seal.kind)

    def _seal_of_now(self, kind: int) -> Record:
        status = os.fstat(self.fd)
        return Record(kind, self._boot, status.st_mtime_ns, status.st_ctime_ns)
