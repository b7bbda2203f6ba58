"""Divides the bytes of a load among its ranks: what they share, and how each byte reaches each rank."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import orjson

from runai_model_streamer.config import FanOut, LoadConfig
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import (
    MIN_BLOCK,
    Beginning,
    Block,
    bits,
    cut_blocks,
    deal_out,
    is_shared,
    pack_ranges,
    parties,
    without_cached,
)
from runai_model_streamer.distributed.ring.node import NodeMemory, cannot_share, network, share_memory, warn_once
from runai_model_streamer.distributed.ring.source import Span
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile, largest_tensor, steps_of
from runai_model_streamer.ranges import PAGE, round_down, round_up

_log = logging.getLogger(__name__)

DEVICE_BLOCK: Final = 16 << 20
"""Maximum bytes of a block that GPUs pass on, without RUNAI_STREAMER_CHUNK_BYTESIZE. All ranks take part in passing on
each, so that smaller ones would cost more of Python's time than of the GPU's."""

_REQUIRED: Final = (FanOut.MEMORY, FanOut.DEVICE)

RING_BYTES: Final = 512 << 20
"""Maximum bytes of all slots of a node."""

SPARE_SLOTS: Final = 2
"""Slots of a rank that the others may still copy from while all its fillers fill."""

MIN_FILLERS: Final = 4
"""Minimum threads of a rank that read files for the others. All ranks together have as many reads in flight as a single
rank would."""


class Division(NamedTuple):
    """The division of a load, the same on all ranks, and this rank's place in it."""

    blocks: Sequence[Block]
    fillers: Sequence[tuple[int, ...]]
    """The fillers of each block; see `blocks.deal_out`. Empty for a block that each taker reads itself."""
    party: tuple[int, ...]
    """Indices of the ranks that this one depends on, with itself."""
    memory: NodeMemory | None
    """None if nothing that this rank wants is shared."""
    threads: int
    """Number of threads that fill this rank's blocks."""
    ring_bytes: int
    """Bytes of all slots of this node."""
    reads_alone: bool
    """Whether this rank also reads bytes for itself that are not in the page cache."""


class _RankInfo(NamedTuple):
    """What each rank announces."""

    place: str
    """Equal for ranks that can share memory."""
    largest: int
    """Bytes of the largest tensor."""
    threads: int
    """Number of threads that fill blocks."""


def divide(
    peers: Peers,
    nodes: Sequence[str],
    config: LoadConfig,
    files: Sequence[PlannedFile],
    sources: Sequence[Source],
    beginnings: Mapping[int, Beginning],
) -> Division:
    """Decide which rank reads what. All ranks of the load must call this, each with the tensors that it wants.

    Bytes in a node's page cache are not shared: each rank of the node copies them from there. From the ring it would
    copy them too, and the ring would cost one copy more. Between devices they are shared as all others.

    Args:
        peers: the ranks.
        nodes: the node of each rank.
        config: this rank's settings. All ranks have the same memory limit and read size.
        files: the tensors that this rank wants.
        sources: the sources of the files.
        beginnings: see `blocks.deal_out`.

    Raises:
        DistributedError: another rank has failed.
    """
    largest = largest_tensor(files)
    mine = _RankInfo(
        f"{nodes[peers.index]} {network()}" if config.fan_out is not FanOut.SOCKETS else f"rank {peers.rank}",
        0 if largest is None else largest[1].nbytes,
        _threads(files, sources, config, nodes.count(nodes[peers.index])),
    )
    head = orjson.dumps(tuple(mine))
    gathered = peers.gather(len(head).to_bytes(8, "little") + head + pack_ranges(files))
    lengths = [int.from_bytes(each[:8], "little") for each in gathered]
    said = [_RankInfo(*orjson.loads(each[8 : 8 + length])) for each, length in zip(gathered, lengths, strict=True)]
    wanted = [each[8 + length :] for each, length in zip(gathered, lengths, strict=True)]
    on_node = max(nodes.count(each) for each in nodes)
    allowed = _ring_limit(config.memory_limit, on_node, max(each.largest for each in said)) // on_node
    kinds = [file.kind for file in files]
    least = max((MIN_BLOCK[kind] for kind in kinds), default=PAGE)
    on_device = config.fan_out is FanOut.DEVICE
    unset = DEVICE_BLOCK if on_device else None
    chunks = {kind: unset if config.chunk_bytesize is None else config.chunk_for(kind) for kind in set(kinds)}
    blocks = cut_blocks(wanted, kinds, chunks, max(round_down(allowed // 2, PAGE), least))
    numbers = list(dict.fromkeys(nodes))
    if not on_device and SourceKind.FILE in kinds:
        cached = _cached(peers, nodes, blocks, sources)
        blocks = without_cached(blocks, cached, [numbers.index(each) for each in nodes])
    joined = parties(blocks, len(nodes))
    party = bits(joined[peers.index])
    shared = [block.length for block in blocks if is_shared(block)]
    size = round_up(max(shared, default=0), PAGE)
    if not size:
        return Division(blocks, [()] * len(blocks), party, None, 0, 0, reads_alone=False)
    threads = max(each.threads for each in said)
    count = min(max(allowed // size, 2), threads + SPARE_SLOTS, len(shared))
    _look_for_other_namespaces(peers, nodes, said, joined[peers.index], config.fan_out)
    places = [(each.place, its) for each, its in zip(said, joined, strict=True)]
    candidates = [places.index(each) for each in places]
    required = config.fan_out if config.fan_out in _REQUIRED else None
    memory = share_memory(peers, candidates, count, size, required=required)
    fillers = deal_out(blocks, memory.domains, beginnings)
    if len(party) == 1:
        return Division(blocks, fillers, party, None, 0, 0, reads_alone=False)
    alone = any(not each and block.takers >> peers.index & 1 for block, each in zip(blocks, fillers, strict=True))
    return Division(blocks, fillers, party, memory, min(mine.threads, count), on_node * count * size, reads_alone=alone)


def _threads(files: Sequence[PlannedFile], sources: Sequence[Source], config: LoadConfig, ranks: int) -> int:
    """Return how many reads this rank has in flight. For files, the ranks of a node divide the reads of a single rank.

    Requests to object storage are not divided: each is a connection, and needs CPU time of its process.
    """
    most = 1
    for file, source in zip(files, sources, strict=True):
        allowed = config.concurrency_for(file.kind)
        if file.kind is SourceKind.FILE:
            allowed = min(max(-(-(source.streams or allowed) // ranks), MIN_FILLERS), allowed)
        most = max(most, allowed)
    return most


def _look_for_other_namespaces(
    peers: Peers, nodes: Sequence[str], said: Sequence[_RankInfo], party: int, fan_out: FanOut
) -> None:
    """Warn of a rank of this node that cannot share memory with this one. Raise if memory is required."""
    for index in bits(party):
        if nodes[index] == nodes[peers.index] and said[index].place != said[peers.index].place:
            why = "it is in another network namespace"
            if fan_out in _REQUIRED:
                raise cannot_share(fan_out, peers.ranks[index], why)
            if fan_out is FanOut.AUTO:
                warn_once(peers.ranks[index], why)
            return


def _ring_limit(limit: int, ranks: int, largest: int) -> int:
    """Return the maximum bytes of a node's slots: a part of the limit that is free while each rank holds a tensor."""
    if limit < 0:
        return RING_BYTES
    return min(RING_BYTES, limit // 8, max(limit - ranks * largest, 0))


def _cached(peers: Peers, nodes: Sequence[str], blocks: Sequence[Block], sources: Sequence[Source]) -> list[list[int]]:
    """Return for each node the numbers of the blocks in its page cache. The node's ranks take turns to look."""
    mine = [index for index, node in enumerate(nodes) if node == nodes[peers.index]]
    found = [
        number
        for number in range(mine.index(peers.index), len(blocks), len(mine))
        if sources[blocks[number].file].kind is SourceKind.FILE
        and sources[blocks[number].file].origin(blocks[number].offset, blocks[number].length) is Origin.PAGE_CACHE
    ]
    cached: dict[str, list[int]] = {node: [] for node in nodes}
    for node, theirs in zip(nodes, peers.gather(np.asarray(found, np.int64).tobytes()), strict=True):
        cached[node].extend(np.frombuffer(theirs, np.int64).tolist())
    return list(cached.values())


def spans_of(
    division: Division, me: int, files: Sequence[PlannedFile], groups: Sequence[Group]
) -> tuple[list[list[Span]], dict[int, int]]:
    """Return how the bytes of each file come to this rank, and how many bytes it copies of each block of the ring."""
    spans: list[list[Span]] = [[] for _ in files]
    by_file: list[list[int]] = [[] for _ in files]
    for number, (block, fillers) in enumerate(zip(division.blocks, division.fillers, strict=True)):
        by_file[block.file].append(number)
        shared = number if fillers and block.takers >> me & 1 else None
        last = spans[block.file][-1] if spans[block.file] else None
        if shared is None and last is not None and last.block is None and last.end == block.offset:
            spans[block.file][-1] = last._replace(end=block.end)
        else:
            spans[block.file].append(Span(block.offset, block.end, shared))
    needed: dict[int, int] = {}
    place = [0] * len(files)  # a file's steps come in order; a step may begin in the block that the last one ended in
    for group in groups:
        for step in steps_of(group, files):
            numbers, end = by_file[step.file], step.offset + step.length
            while division.blocks[numbers[place[step.file]]].end <= step.offset:
                place[step.file] += 1
            for index in range(place[step.file], len(numbers)):
                number = numbers[index]
                block = division.blocks[number]
                if block.offset >= end:
                    break
                if division.fillers[number] and block.takers >> me & 1:
                    overlap = min(block.end, end) - max(block.offset, step.offset)
                    needed[number] = needed.get(number, 0) + overlap
    return spans, needed


def log_party(peers: Peers, party: Sequence[int]) -> None:
    """Log the ranks that this one shares its reads with, if not all."""
    if len(party) < len(peers.ranks):
        _log.info(
            "Reads of rank %d are shared by ranks %s, which want the same bytes",
            peers.rank,
            ", ".join(str(peers.ranks[each]) for each in party),
        )
