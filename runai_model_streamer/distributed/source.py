"""A source whose reads are done by one rank for all: it reads and sends, the others receive."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

from runai_model_streamer.distributed.notices import Reason
from runai_model_streamer.distributed.peers import Peers
from runai_model_streamer.distributed.shares import Share
from runai_model_streamer.errors import InterruptedReadError, StreamerError
from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.origins import Origin, SourceKind

_READ = {SourceKind.FILE: Origin.DISK, SourceKind.OBJECT: Origin.OBJECT}
"""What a rank's own reads are told to be, so that all readers take part: most wait for other ranks, not for a CPU."""


class Remaining:
    """Bytes that this rank has still to read or receive. Thread safe."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """So many are there."""
        with self._lock:
            self._count -= count

    @property
    def none(self) -> bool:
        """Whether all are there."""
        return not self._count


class ReadingRanks(NamedTuple):
    """The ranks that read the same."""

    peers: Peers
    ranks: Sequence[int]
    """Those that read the same, with this one."""
    remaining: Remaining
    """Bytes of all that they read."""


class SharedSource(SourceWrapper):
    """One file or object of a shared load; see `Source`.

    Each read lies within one of the plan's; several within one come in order, from one thread. Waits for other ranks
    are interrupted by the storage.

    Args:
        source: this rank's own way to the file.
        shares: the plan's reads of the file, in file order.
        party: who reads it.
        beginning: the file's first bytes, where this rank has them.
    """

    def __init__(self, source: Source, shares: Sequence[Share], reading: ReadingRanks, beginning: bytes) -> None:
        super().__init__(source)
        source.skip_verification()  # this rank reads only a part of the bytes from it
        self.alignment = 1
        self.streams = None  # readers that wait for other ranks keep no storage busy
        self._shares = {share.offset: share for share in shares}
        self._peers, self._ranks, self._remaining = reading
        self._index = self._ranks.index(self._peers.rank)
        self._others = [rank for rank in self._ranks if rank != self._peers.rank]
        self._beginning = beginning
        self._current = threading.local()

    def origin(self, offset: int, length: int) -> Origin:  # noqa: ARG002 - wherever in the file
        """As if all were this rank's own reads."""
        return _READ[self.kind]

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer: from storage, and send it to all others; or from the rank whose read it is.

        Raises:
            DistributedError: another rank failed, died, or ended early.
            StreamerError: what `Source.read_into` raises; the others are told.
        """
        share = self._share(offset)
        if share.owner == self._index:
            try:
                self._read(offset, buffer)
            except InterruptedReadError:
                raise
            except StreamerError as error:
                self._peers.end(Reason(self._peers.rank, f"failed: {type(error).__name__}: {error}"))
                raise
            self._peers.send(buffer, share.number, self._others)
        else:
            self._peers.receive(buffer, self._ranks[share.owner], share.number)
        self._remaining.take(len(buffer))
        return _READ[self.kind] if share.owner == self._index else Origin.RANK

    def _share(self, offset: int) -> Share:
        share = self._shares.get(offset)
        if share is None:
            share = self._current.share  # a later piece of the same read
        self._current.share = share
        return share

    def _read(self, offset: int, buffer: memoryview) -> None:
        at_hand = self._beginning[offset : offset + len(buffer)]
        buffer[: len(at_hand)] = at_hand
        if len(at_hand) < len(buffer):
            self._source.read_into(offset + len(at_hand), buffer[len(at_hand) :])
