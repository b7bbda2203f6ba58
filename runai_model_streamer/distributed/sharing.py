"""One load shared by several ranks: opened once, dealt out evenly, and ended together."""

import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.distributed.agreement import agree, digest_of, listed
from runai_model_streamer.distributed.groups import Membership, join
from runai_model_streamer.distributed.headers import HeadSource, OpenedFile, TapingStorage, pack, unpack
from runai_model_streamer.distributed.notices import Reason
from runai_model_streamer.distributed.shares import SENT_AT_ONCE, Beginning, deal_out, even_reads
from runai_model_streamer.distributed.source import ReadingRanks, Remaining, SharedSource
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.source import PREFIX_BYTES
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import open_each
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile
from runai_model_streamer.pipeline.sharing import SharedReads

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

MIN_LIMIT: Final = 64 << 20
"""Bytes that a rank without a memory limit may hold, if twice its largest tensor is less: eight requests to object
storage."""

MAX_READERS: Final = 64
"""Threads of one rank: each has a read in flight, or waits for one of another rank."""

CLOSING_SECONDS: Final = 1.0
"""Between the end of an iterator that is dropped and that of its load, where the caller's code goes straight to it."""

_LONGEST: Final = 1000
"""Characters of an error that the other ranks are told."""


class RankSharing:
    """This rank's part in a shared load. Closed with the load's storage.

    Ranks that select the same read it together, each byte once; one that selects what no other does reads that alone.
    Headers are read once for all.

    **Memory.** Bytes land where their tensor will live, read or received, or where a load that is not shared would
    stage them. What is being filled, or waits for the caller, counts against this rank's part of the memory limit;
    without a limit, against twice the largest tensor (or `MIN_LIMIT`).

    Args:
        membership: of `join`.
    """

    def __init__(self, membership: Membership) -> None:
        self._peers = membership.peers
        self._node = membership.node
        self._facts: dict[str, str] = {}
        self._causes: dict[str, str] = {}
        self._may_read_more = False
        self._files: dict[int, int] = {}
        self._beginnings: dict[int, bytes] = {}
        self._ranks: tuple[int, ...] = ()
        self._remaining: Remaining | None = None
        self._left = threading.Event()
        self.ranks_of_node = membership.ranks_of_node
        """By which the node's memory limit is divided."""
        self.ranks = len(self._peers.ranks)
        """That share the reads."""
        self.reports = self._peers.rank == 0
        """Whether this rank tells the throughput, for all."""

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
        """Storage that ends the load for all ranks when it is interrupted before all bytes are there."""
        self._may_read_more = config.chunk_bytesize is None
        self._facts = {
            "RUNAI_STREAMER_MEMORY_LIMIT": str(config.memory_limit),
            "RUNAI_STREAMER_CHUNK_BYTESIZE": str(config.chunk_bytesize),
        }
        # Where reads are staged, for a GPU or to be cast, it may make another plan.
        self._causes = {"RUNAI_STREAMER_CONCURRENCY": str(config.concurrency)}
        return _SharedStorage(config, credentials, self)

    def open_each(
        self,
        storage: Storage,
        paths: Sequence[str],
        concurrency: int,
        look: Callable[[Source], _T],
        asked: Mapping[str, Collection[str]],
    ) -> list[tuple[Source, _T]]:
        """Open every path; each file is looked at by one rank, in turn, which sends what it has read to the others.

        Raises:
            DistributedError: the ranks do not want the same, or another could not open a file of its own.
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
            # Before the headers are held against files that may be others.
            agree(peers, self._versions(paths, sources))
            for other in known:
                if other.file not in seen:
                    seen[other.file] = look(HeadSource(sources[other.file], other.head))
        except BaseException:
            for source in sources.values():
                source.close()
            raise
        self._files = {id(source): index for index, source in sources.items()}
        return [(sources[index], seen[index]) for index in range(len(paths))]

    def _versions(self, paths: Sequence[str], sources: dict[int, Source]) -> dict[str, str]:
        """What tells whether all ranks have the same local files. An object is asked for by its ETag."""
        facts = {}
        for index, path in enumerate(paths):
            source = sources[index]
            if source.kind is SourceKind.FILE:
                facts[f"size of {path}"] = str(source.size)
                # Copies on other nodes may have times of their own.
                if source.version is not None:
                    facts[f"modification of {path} on {self._node}"] = source.version
        return facts

    def agree_on_reads(self, files: Sequence[PlannedFile], concurrency: int) -> SharedReads:
        """Find the ranks that read the same. All ranks that share the load have to call this, and `divide` then."""
        wanted = digest_of([file.tensors for file in files]).encode()
        peers = self._peers
        found = zip(peers.ranks, peers.gather(wanted), strict=True)
        self._ranks = tuple(rank for rank, theirs in found if theirs == wanted)
        count = len(self._ranks)
        if count < len(peers.ranks):
            _log.info("Reads of rank %d are shared by ranks %s, which select the same", peers.rank, self._named())
        if count == 1:
            return SharedReads(files, concurrency, None, alone=True)
        if self._may_read_more:
            files = [file._replace(chunk=max(file.chunk, SENT_AT_ONCE)) for file in files]
        readers = min(concurrency * count, max(MAX_READERS, concurrency))
        return SharedReads(even_reads(files, count), readers, MIN_LIMIT, alone=False)

    def _named(self) -> str:
        return ", ".join(map(str, self._ranks))

    def divide(
        self, files: Sequence[PlannedFile], groups: Sequence[Group], sources: Sequence[Source], grouping: object
    ) -> Sequence[Source]:
        """Deal out the reads; see `pipeline.sharing.Sharing.divide`.

        Raises:
            DistributedError: the ranks have planned differently.
        """
        peers, ranks = self._peers, self._ranks
        if len(ranks) == 1:
            agree(peers, {})
            self._remaining = Remaining(0)
            return sources
        beginnings = {}
        for index, source in enumerate(sources):
            opener = peers.ranks[self._files[id(source)] % len(peers.ranks)]
            if source.kind is SourceKind.OBJECT and opener in ranks:
                beginnings[index] = Beginning(min(PREFIX_BYTES, source.size), ranks.index(opener))
        shares = deal_out(groups, files, len(ranks), beginnings)
        planned = {f"plan of ranks {self._named()}, with its device and dtype": digest_of([grouping, shares])}
        agree(peers, planned, self._causes)
        self._remaining = Remaining(sum(share.length for each in shares for share in each))
        reading = ReadingRanks(peers, ranks, self._remaining)
        return [
            SharedSource(source, shares[index], reading, self._beginnings.get(self._files[id(source)], b""))
            for index, source in enumerate(sources)
        ]

    def reader_left(self, error: BaseException | None) -> None:
        """End the load for all ranks because a reader thread has ended early.

        A caller that drops its iterator ends the load here, and only readers notice. Mostly the streamer is closed
        right after that, which says more: whether the caller had an error. So this waits a moment for `leave`.

        Args:
            error: what the reader ended with; None if the load has ended.
        """
        if error is not None or not self._left.wait(CLOSING_SECONDS):
            self.leave(error)

    def leave(self, error: BaseException | None = None) -> None:
        """End the load for all ranks, unless all bytes are here. Idempotent.

        Args:
            error: why; None for what is being handled, if anything is.
        """
        self._left.set()
        if self._remaining is not None and self._remaining.none:
            return
        error = sys.exception() if error is None else error
        text = "left before it had all tensors: it closed its streamer, dropped its iterator, or began another load"
        if error is not None and not isinstance(error, GeneratorExit):
            text = f"failed: {type(error).__name__}: {error}"[:_LONGEST]
        self._peers.end(Reason(self._peers.rank, text))

    def close(self) -> None:
        """Leave, and give the process groups back. Idempotent."""
        self.leave()
        self._peers.close()


class _SharedStorage(Storage):
    """Storage of a shared load."""

    def __init__(self, config: StreamerConfig, credentials: S3Credentials | None, sharing: RankSharing) -> None:
        if config.verify:
            _log.warning("RUNAI_STREAMER_VERIFY: not verified, since no rank reads all of an object")
        super().__init__(replace(config, verify=False), credentials, shared=True)
        self._sharing = sharing

    def interrupt(self) -> None:
        """Wake what waits for other ranks too."""
        self._sharing.leave()
        super().interrupt()

    def reader_left(self, error: BaseException | None) -> None:
        """Tell the other ranks, unless the load ends by itself at once."""
        self._sharing.reader_left(error)

    def close(self) -> None:
        """Leave the other ranks too."""
        super().close()
        self._sharing.close()


@contextmanager
def joined(config: StreamerConfig) -> Iterator[RankSharing | None]:
    """Meet the other ranks, which all have to call this; None where there is nothing to share.

    What is raised in the context, before the load has begun, they are told.

    Raises:
        DistributedError: not all ranks came within the timeout.
    """
    membership = join(config)
    if membership is None:
        yield None
        return
    sharing = RankSharing(membership)
    try:
        yield sharing
    except BaseException:
        sharing.close()
        raise
