"""One load shared by several ranks: opened once, dealt out evenly, and ended together."""

import logging
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.distributed.agreement import agree, digest_of, listed
from runai_model_streamer.distributed.groups import Membership, join
from runai_model_streamer.distributed.headers import Known, TapedSource, TapingStorage, pack, replay_header, unpack
from runai_model_streamer.distributed.notices import Reason
from runai_model_streamer.distributed.shares import Beginning, deal_out, even_reads
from runai_model_streamer.distributed.source import Remaining, SharedSource
from runai_model_streamer.io.paths import Storage, is_object
from runai_model_streamer.io.posix import FileSource
from runai_model_streamer.io.s3 import PREFIX_BYTES
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.io.safetensors import Header
from runai_model_streamer.io.source import Source, SourceKind
from runai_model_streamer.pipeline.opening import Opened, open_files
from runai_model_streamer.pipeline.plan import PlannedFile, largest_tensor, plan_groups
from runai_model_streamer.pipeline.sharing import Divided

_log = logging.getLogger(__name__)

LEAST_LIMIT: Final = 64 << 20
"""Bytes that a rank without a memory limit may hold, if twice its largest tensor is less: eight requests to object
storage."""

MOST_READERS: Final = 64
"""Threads of one rank: each has a read in flight, or waits for one of another rank."""

_LONGEST: Final = 1000
"""Characters of an error that the other ranks are told."""


class Sharing:
    """This rank's part in a shared load. Closed with the load's storage.

    **Memory.** Bytes land where their tensor will live, read or received: nothing is staged. What is being filled, or
    waits for the caller, counts against this rank's part of the memory limit; without a limit, against twice the
    largest tensor (or `LEAST_LIMIT`).

    Args:
        membership: of `join`.
        facts: of the request; all ranks have to say the same.
    """

    def __init__(self, membership: Membership, facts: dict[str, str]) -> None:
        self._peers = membership.peers
        self._node = membership.node
        self._facts = facts
        self._beginnings: dict[int, bytes] = {}
        self._remaining: Remaining | None = None
        self.ranks_of_node = membership.ranks_of_node
        """By which the node's memory limit is divided."""
        self.ranks = len(self._peers.ranks)
        """That share the reads."""
        self.reports = self._peers.rank == 0
        """Whether this rank tells the throughput, for all."""

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
        """Storage that ends the load for all ranks when it is interrupted before all bytes are there."""
        return _SharedStorage(config, credentials, self)

    def open_files(self, storage: Storage, paths: Sequence[str], concurrency: int) -> list[Opened]:
        """Open every path; each header is read by one rank, in turn, and sent to the others.

        Raises:
            DistributedError: the ranks do not want the same, or another could not open a file of its own.
            StreamerError: as `pipeline.opening.open_files`.
        """
        peers = self._peers
        agree(peers, self._facts | {"paths": listed(paths)})
        turns = range(peers.index, len(paths), len(peers.ranks))
        taping = TapingStorage(storage)
        sources: dict[int, Source] = {}
        headers: dict[int, Header] = {}
        mine: list[Known] = []
        try:
            found = open_files(taping, [paths[index] for index in turns], concurrency)
            for index, (source, header) in zip(turns, found, strict=True):
                assert isinstance(source, TapedSource)
                sources[index], headers[index] = source.source, header
                self._beginnings[index] = source.beginning
                etag = getattr(source.source, "etag", None)  # of objects
                mine.append(Known(index, source.size, etag, bytes(source.tape)))
            known = [each for theirs in peers.gather(pack(mine)) for each in unpack(theirs)]
            for each in known:
                if each.file not in sources:
                    sources[each.file] = storage.open_known(paths[each.file], each.size, each.etag)
            # Before the headers are held against files that may be others.
            agree(peers, self._versions(paths, sources))
            for each in known:
                if each.file not in headers:
                    headers[each.file] = replay_header(sources[each.file], each.head)
        except BaseException:
            for source in sources.values():
                source.close()
            raise
        return [(sources[index], headers[index]) for index in range(len(paths))]

    def _versions(self, paths: Sequence[str], sources: dict[int, Source]) -> dict[str, str]:
        """What tells whether all ranks have the same local files. An object is asked for by its ETag."""
        facts = {}
        for index, path in enumerate(paths):
            source = sources[index]
            if not is_object(path):
                facts[f"size of {path}"] = str(source.size)
                # Copies on other nodes may have times of their own.
                if isinstance(source, FileSource):
                    facts[f"modification of {path} on {self._node}"] = str(os.fstat(source.fileno()).st_mtime_ns)
        return facts

    def divide(
        self, files: Sequence[PlannedFile], sources: Sequence[Source], limit: int | None, concurrency: int
    ) -> Divided:
        """Deal out the reads.

        Args:
            limit: bytes that this rank may hold; None for what is said above.
            concurrency: reads in flight at once, of this rank's own.

        Raises:
            DistributedError: the ranks have planned differently.
        """
        peers, count = self._peers, len(self._peers.ranks)
        largest = largest_tensor(files)
        if limit is None:
            limit = max(2 * largest[1].nbytes if largest else 0, LEAST_LIMIT)
        files = even_reads(files, count)
        groups = tuple(plan_groups(files, limit))
        beginnings = {
            index: Beginning(min(PREFIX_BYTES, source.size), index % count)
            for index, source in enumerate(sources)
            if source.kind is SourceKind.OBJECT
        }
        shares = deal_out(groups, files, count, beginnings)
        tensors = [(tensor.name, tensor.dtype, tensor.shape, tensor.start) for file in files for tensor in file.tensors]
        agree(peers, {"plan": digest_of([tensors, shares])})
        self._remaining = Remaining(sum(share.length for each in shares for share in each))
        shared = [
            SharedSource(source, shares[index], peers, self._remaining, self._beginnings.get(index, b""))
            for index, source in enumerate(sources)
        ]
        self._beginnings.clear()
        return Divided(files, shared, limit, min(concurrency * count, max(MOST_READERS, concurrency)))

    def leave(self) -> None:
        """End the load for all ranks, unless all bytes are here. Idempotent."""
        if self._remaining is not None and self._remaining.none:
            return
        error = sys.exception()
        text = "left before it had all tensors: it closed its streamer, or began another load"
        if error is not None and not isinstance(error, GeneratorExit):
            text = f"failed: {type(error).__name__}: {error}"[:_LONGEST]
        self._peers.end(Reason(self._peers.rank, text))

    def close(self) -> None:
        """Leave, and give the process groups back. Idempotent."""
        self.leave()
        self._peers.close()


class _SharedStorage(Storage):
    """Storage of a shared load."""

    def __init__(self, config: StreamerConfig, credentials: S3Credentials | None, sharing: Sharing) -> None:
        if config.verify:
            _log.warning("RUNAI_STREAMER_VERIFY: not verified, since no rank reads all of an object")
        super().__init__(replace(config, verify=False), credentials, shared=True)
        self._sharing = sharing

    def interrupt(self) -> None:
        """Wake what waits for other ranks too."""
        self._sharing.leave()
        super().interrupt()

    def close(self) -> None:
        """Leave the other ranks too."""
        super().close()
        self._sharing.close()


def join_sharing(config: StreamerConfig, tensor_names: Collection[str] | None) -> Sharing | None:
    """Meet the other ranks, which all have to call this; None where there is nothing to share.

    Raises:
        DistributedError: not all ranks came within the timeout.
    """
    membership = join(config)
    if membership is None:
        return None
    facts = {
        "RUNAI_STREAMER_MEMORY_LIMIT": str(config.memory_limit),
        "RUNAI_STREAMER_CHUNK_BYTESIZE": str(config.chunk_bytesize),
        "tensor_names": "all" if tensor_names is None else listed(sorted(map(str, tensor_names))),
    }
    return Sharing(membership, facts)
