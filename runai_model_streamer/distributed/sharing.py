"""Shares one load between ranks: they open each file once, divide the reads evenly, and end together."""

import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from typing_extensions import override

from runai_model_streamer.config import FanOut, LoadConfig
from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.opening import open_lane, ring_of
from runai_model_streamer.distributed.headers import HeadSource, OpenedFile, TapingStorage, pack, unpack, versions
from runai_model_streamer.distributed.ranks.agreement import agree, listed
from runai_model_streamer.distributed.ranks.groups import Membership, join
from runai_model_streamer.distributed.ranks.notices import Reason
from runai_model_streamer.distributed.ring.blocks import Beginning
from runai_model_streamer.distributed.ring.division import Division, divide, log_party, spans_of
from runai_model_streamer.distributed.ring.round import RingMemory, Round
from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import open_each
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile
from runai_model_streamer.pipeline.sharing import SharedReads
from runai_model_streamer.pipeline.tally.shared import SharedCounts

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

MIN_LIMIT: Final = 64 << 20
"""Bytes that a rank without a memory limit may always hold, even if twice its largest tensor is less: eight requests to
object storage."""

MIN_COPIERS: Final = 2
"""Minimum threads of a rank that copy from the ring."""

CLOSING_SECONDS: Final = 1.0
"""Maximum seconds from the end of a dropped iterator to the end of its load, if the caller closes it at once."""

_LONGEST: Final = 1000
"""Maximum characters of an error that is sent to the other ranks."""


class RankSharing:
    """This rank's part in a shared load. Closed with the load's storage.

    One rank reads the bytes that several ranks want. The others of its node get them through shared memory (`ring`),
    and other nodes through a socket. A rank reads by itself what no other rank wants, and what is in the page cache.
    Each header is read once for all ranks.

    **Memory.** Memory that the caller waits for, or has not taken yet, counts against this rank's part of the memory
    limit; without a limit, against twice the largest tensor (or `MIN_LIMIT`). The ring counts once for the node.

    Args:
        membership: made by `join`.
    """

    def __init__(self, membership: Membership) -> None:
        self._peers = membership.peers
        self._nodes = membership.nodes
        self._store = membership.store
        self._config = LoadConfig()
        self._facts: dict[str, str] = {}
        self._files: dict[int, int] = {}
        self._beginnings: dict[int, bytes] = {}
        self._division: Division | None = None
        self._lane: Lane | None = None
        self._round: Round | None = None
        self._lent: RingMemory | None = None
        self._apart = False
        self._left = threading.Event()
        self.ranks_of_node = membership.ranks_of_node
        """Number of ranks that share the node's memory limit."""
        self.ranks = len(self._peers.ranks)
        """Number of ranks that share the reads."""
        self.reports = self._peers.rank == 0
        """Whether this rank logs the throughput, for all."""

    def storage(self, config: LoadConfig, credentials: S3Credentials | None) -> Storage:
        """Make storage that ends the load for all ranks if it is interrupted before all bytes are there."""
        self._config = config
        self._facts = {
            "RUNAI_STREAMER_MEMORY_LIMIT": str(config.memory_limit),
            "RUNAI_STREAMER_CHUNK_BYTESIZE": str(config.chunk_bytesize),
            "RUNAI_STREAMER_DIST_FANOUT": "device" if config.fan_out is FanOut.DEVICE else "not device",
        }
        return _SharedStorage(config, credentials, self)

    def open_each(
        self,
        storage: Storage,
        paths: Sequence[str],
        concurrency: int,
        look: Callable[[Source], _T],
        asked: Mapping[str, Collection[str]],
    ) -> list[tuple[Source, _T]]:
        """Open every path. The ranks take turns: one rank looks at a file, and sends what it has read to the others.

        Raises:
            DistributedError: the ranks' paths or settings differ, or another rank could not open a file.
            StreamerError: as `pipeline.opening.open_each`.
        """
        peers = self._peers
        agree(peers, self._facts | {what: listed(items) for what, items in asked.items()} | {"paths": listed(paths)})
        turns = range(peers.index, len(paths), len(peers.ranks))
        taping = TapingStorage(storage)
        sources: dict[int, Source] = {}
        seen: dict[int, _T] = {}
        mine: list[OpenedFile] = []
        try:
            found = open_each(taping, [paths[index] for index in turns], concurrency, look)
            for index, (taped, each) in zip(turns, found, strict=True):
                sources[index], seen[index] = taped.source, each
                self._beginnings[index] = taped.beginning
                mine.append(OpenedFile(index, taped.size, taped.version, bytes(taped.tape)))
            known = [each for theirs in peers.gather(pack(mine)) for each in unpack(theirs)]
            for other in known:
                if other.file not in sources:
                    sources[other.file] = storage.open_known(paths[other.file], other.size, other.version)
            # Before the headers are compared with files, which may differ between ranks.
            facts = versions(paths, sources, self._nodes[peers.index])
            if facts:  # else all are objects, on all ranks
                agree(peers, facts)
            for other in known:
                if other.file not in seen:
                    seen[other.file] = look(HeadSource(sources[other.file], other.head))
        except BaseException:
            for source in sources.values():
                source.close()
            raise
        self._files = {id(source): index for index, source in sources.items()}
        return [(sources[index], seen[index]) for index in range(len(paths))]

    def agree_on_reads(
        self, files: Sequence[PlannedFile], sources: Sequence[Source], concurrency: int, device: torch.device
    ) -> SharedReads:
        """Divide what the ranks want. All ranks that share the load must call this; see `pipeline.sharing.Sharing`.

        Raises:
            DistributedError: another rank has failed, or ranks must share memory, or broadcast, and cannot.
        """
        peers = self._peers
        beginnings = {}
        for index, source in enumerate(sources):
            opener = self._files[id(source)] % len(peers.ranks)
            if source.kind is SourceKind.OBJECT:
                beginnings[index] = Beginning(min(PREFIX_BYTES, source.size), opener)
        division = divide(peers, self._nodes, self._config, files, sources, beginnings)
        if division.memory is None:
            self._apart = True
            return SharedReads(concurrency, None, 0, alone=True)
        self._division = division
        log_party(peers, division.party)
        if not division.reads_alone:
            # These readers copy from memory. More of them than CPUs would slow each other down.
            cpus = usable_cpus() // self._nodes.count(self._nodes[peers.index])
            concurrency = min(concurrency, max(cpus, MIN_COPIERS))
        if self._config.fan_out is FanOut.DEVICE:
            self._lane = open_lane(peers, division, device, self._store)
        self._lent = RingMemory(division.memory.slots, on_device=self._lane is not None)
        return SharedReads(concurrency, MIN_LIMIT, division.ring_bytes, alone=False, lent=self._lent)

    def divide(
        self, files: Sequence[PlannedFile], groups: Sequence[Group], sources: Sequence[Source]
    ) -> Sequence[Source]:
        """Wrap the sources so that they wait for what other ranks read; see `pipeline.sharing.Sharing.divide`."""
        division = self._division
        if division is None or self._lent is None:
            return sources
        beginnings = {index: self._beginnings.get(self._files[id(source)], b"") for index, source in enumerate(sources)}
        spans, needed = spans_of(division, self._peers.index, files, groups)
        ring, self._lane = ring_of(self._peers, division, needed, self._lane), None
        self._round = Round(self._peers, division, ring, files, sources, beginnings)
        made = [self._round.source(source, each) for source, each in zip(sources, spans, strict=True)]
        self._lent.sources = made
        return made

    def counts(self) -> SharedCounts | None:
        """Return what this rank has read, taken and waited for; None if nothing is shared."""
        return None if self._round is None else self._round.counts()

    def reader_left(self, error: BaseException | None) -> None:
        """End the load for all ranks because a reader thread has ended early.

        If a caller drops its iterator, only readers notice. Mostly the streamer is closed right after that, and then
        the caller's error is known. So this waits a moment for `leave`.

        Args:
            error: what the reader raised; None if the load has ended.
        """
        if error is not None or not self._left.wait(CLOSING_SECONDS):
            self.leave(error)

    def leave(self, error: BaseException | None = None) -> None:
        """End the load for all ranks, unless all bytes are here. Idempotent.

        Args:
            error: why; None for the exception being handled, if any.
        """
        self._left.set()
        if self._round is not None:
            self._round.drain()
            if self._round.complete:
                return
        elif self._apart:
            return
        error = sys.exception() if error is None else error
        text = "left before it had all tensors: it closed its streamer, dropped its iterator, or began another load"
        if error is not None and not isinstance(error, GeneratorExit):
            text = f"failed: {type(error).__name__}: {error}"[:_LONGEST]
        self._peers.end(Reason(self._peers.rank, text))

    def join(self) -> None:
        """Wait a moment for the threads that read for others, once this rank has left."""
        if self._round is not None:
            self._round.join()

    def close(self) -> None:
        """Leave the load, and release memory and connections. Idempotent."""
        self.leave()
        if self._round is not None:
            self._round.close()
        elif self._division is not None and self._division.memory is not None:
            self._division.memory.close()
        if self._lent is not None:
            self._lent.sources = ()  # they lead to all of this
        if self._lane is not None:
            self._lane.close()
        self._peers.close()


class _SharedStorage(Storage):
    """The storage of a shared load."""

    def __init__(self, config: LoadConfig, credentials: S3Credentials | None, sharing: RankSharing) -> None:
        if config.verify:
            _log.warning("RUNAI_STREAMER_VERIFY=1 has no effect: no rank reads all of an object, so none can verify it")
        # shared=False: only one rank of the node reads a byte, so it may bypass the page cache.
        super().__init__(replace(config, verify=False), credentials, shared=False, alike=True)
        self._sharing = sharing

    @override
    def interrupt(self) -> None:
        """Interrupt reads, and waits for other ranks."""
        self._sharing.leave()
        super().interrupt()
        self._sharing.join()

    @override
    def reader_left(self, error: BaseException | None) -> None:
        """End the load for the other ranks, unless it ends by itself at once."""
        self._sharing.reader_left(error)

    @override
    def close(self) -> None:
        """Close the storage, and leave the other ranks."""
        super().close()
        self._sharing.close()


@contextmanager
def joined(config: LoadConfig, group: "ProcessGroup | None" = None) -> Iterator[RankSharing | None]:
    """Meet the other ranks of the group, which must all call this. Yield None if there is nothing to share.

    An exception in the context, before the load has begun, ends the load for the other ranks too.

    Raises:
        DistributedError: not all ranks called this within the timeout.
    """
    membership = join(config, group)
    if membership is None:
        yield None
        return
    sharing = RankSharing(membership)
    try:
        yield sharing
    except BaseException:
        sharing.close()
        raise
