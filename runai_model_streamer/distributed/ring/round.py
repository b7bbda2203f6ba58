"""Runs this rank's part in a shared load: the ring, the threads that fill it, the sources that copy from it."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.division import Division
from runai_model_streamer.distributed.ring.end import RingEnd
from runai_model_streamer.distributed.ring.filling import Fillers
from runai_model_streamer.distributed.ring.links import Links
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.distributed.ring.source import SharedSource, Span
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.landing.lent import Loan
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.pipeline.tally.shared import SharedCounts

JOIN_SECONDS: Final = 0.5
"""Maximum seconds that closing waits for threads that read for others. One that hangs longer keeps its file open."""


class RingMemory:
    """The ring, as memory that a landing may copy from itself; see `pipeline.landing.lent.LentMemory`.

    Args:
        slots: index of each rank of the domain -> its slots. Emptied when the load ends.
    """

    def __init__(self, slots: Mapping[int, Slots], *, on_device: bool = False) -> None:
        self._slots = slots
        self.on_device = on_device
        """Whether blocks are lent on the device; then `slots` are this rank's, which it uploads from."""
        self.sources: Sequence[SharedSource] = ()
        """The source of each file, set once the load has them."""

    @property
    def mappings(self) -> Sequence[memoryview]:
        """The slots of each rank."""
        return [slots.memory for slots in self._slots.values()]

    def lend(self, file: int, offset: int, length: int) -> Loan | int:
        """Wait until the first bytes of a range are there, and lend them."""
        return self.sources[file].lend(offset, length)


class Round:
    """Ring, filler threads and connections, from the division of a load until its end.

    Args:
        peers: the ranks of the load. They call `Ring.stop` when the load ends.
        division: the division of the load; it has memory.
        ring: this rank's end; closed with this.
        files: the tensors that this rank wants.
        sources: the sources of the files.
        beginnings: index of a file -> its first bytes, if this rank has them.
    """

    def __init__(
        self,
        peers: Peers,
        division: Division,
        ring: RingEnd,
        files: Sequence[PlannedFile],
        sources: Sequence[Source],
        beginnings: Mapping[int, bytes],
    ) -> None:
        assert division.memory is not None
        blocks, fillers, memory = division.blocks, division.fillers, division.memory
        self._peers, self._division, self._ring = peers, division, ring
        self._fillers = Fillers(self._ring, peers, blocks, fillers, files, sources, beginnings, division.threads)
        peers.on_end = self._ring.stop
        timeout = peers.timeout.total_seconds()
        links = Links(memory.sockets, timeout, self._ring.received, self._ring.lost) if memory.sockets else None
        self._ring.connect(links)
        self._counting = threading.Lock()
        self._own = 0
        self._came = Counter[Origin]()

    def source(self, source: Source, spans: Sequence[Span]) -> SharedSource:
        """Wrap a source so that this rank takes shared bytes from the ring."""
        return SharedSource(source, spans, self, self._fillers.start, self._count, self._idle)

    def lend(self, number: int, start: int, length: int) -> tuple[memoryview | torch.Tensor, Origin]:
        """Wait for a block; see `source.Lender`."""
        memory = self._ring.lend(number, start, length)
        return memory, self._fillers.origins[number] if self._ring.is_own(number) else Origin.RANK

    def give_back(self, number: int, length: int) -> None:
        """Note what this rank has of a block; see `source.Lender`."""
        self._ring.give_back(number, length)

    def _count(self, origin: Origin, length: int, alone: bool) -> None:
        with self._counting:
            self._came[origin] += length
            if alone:
                self._own += length

    def _idle(self) -> bool:
        return self._fillers.join(0)

    def drain(self) -> None:
        """If this rank has all that it needs itself, wait until it has filled its last block, or the load has ended."""
        self._ring.drain()

    @property
    def complete(self) -> bool:
        """Whether this rank has all that it needs of others, and has filled all that they need of it."""
        return self._ring.complete

    def counts(self) -> SharedCounts:
        """Return what this rank has read, taken and waited for so far."""
        ranks = self._peers.ranks
        return SharedCounts(
            rank=self._peers.rank,
            ranks=tuple(ranks[each] for each in self._division.party),
            memory=len(self._ring.domain) > 1 and not self._ring.on_device,
            device=self._ring.on_device,
            read=self._fillers.read,
            received=self._fillers.received,
            taken=self._ring.taken,
            alone=self._own,
            ring=self._division.ring_bytes,
            origins={origin.field: count for origin, count in list(self._came.items())},
            waited=dict(sorted(dict(self._ring.waited).items())),
        )

    def join(self) -> None:
        """Stop, and wait a moment for the threads that fill and pass on."""
        self._ring.stop()
        self._fillers.join(JOIN_SECONDS)
        self._ring.join(JOIN_SECONDS)

    def close(self) -> None:
        """Stop, and close the connections to the other ranks of the node. Idempotent."""
        self._ring.close()
        self._fillers.join(JOIN_SECONDS)
