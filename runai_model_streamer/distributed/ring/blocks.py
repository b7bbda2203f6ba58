"""The bytes that ranks share, cut into blocks, and which rank fills each. Pure: the same on every rank."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import MAX_GAP, PlannedFile
from runai_model_streamer.ranges import PAGE, ByteRange, round_up, widen

BLOCKS_PER_RANK: Final = 8
"""Cut what is shared into at least this many blocks for each rank, so that their parts differ by an eighth at most."""

MIN_BLOCK: Final = {SourceKind.FILE: 256 << 10, SourceKind.OBJECT: 1 << 20}
"""Bytes below which a block is not worth a read of its own."""

MAX_BLOCK: Final = {SourceKind.FILE: 4 << 20, SourceKind.OBJECT: 8 << 20}
"""Bytes of a block without RUNAI_STREAMER_CHUNK_BYTESIZE. Direct reads gain nothing from more, requests do."""


class Block(NamedTuple):
    """Consecutive bytes of one file, which one rank reads for all that want any of them."""

    file: int
    """Index of the file."""
    offset: int
    length: int
    takers: int
    """Bit i: rank i, by its index among those that share the load, wants some of it."""

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.offset + self.length


class Beginning(NamedTuple):
    """The first bytes of an object, which the rank that opened it has."""

    length: int
    owner: int
    """Index of the rank."""


def wanted_ranges(file: PlannedFile) -> Iterator[ByteRange]:
    """What a rank's reads of the file lie within, in file order, however its tensors are grouped."""
    alignment = file.alignment if file.kind is SourceKind.FILE else 1
    current: ByteRange | None = None
    for tensor in file.tensors:
        if tensor.end == tensor.start:
            continue
        if current is None:
            current = ByteRange(tensor.start, tensor.end)
        elif tensor.start - current.end > MAX_GAP[file.kind]:
            yield widen(current, alignment, file.size)
            current = ByteRange(tensor.start, tensor.end)
        else:
            current = ByteRange(current.start, max(current.end, tensor.end))
    if current is not None:
        yield widen(current, alignment, file.size)


def pack_ranges(files: Sequence[PlannedFile]) -> bytes:
    """What this rank wants of all files, for the others."""
    rows = [(index, *span) for index, file in enumerate(files) for span in wanted_ranges(file)]
    return np.asarray(rows, np.int64).reshape(-1, 3).tobytes()


def block_size(kind: SourceKind, chunk: int | None, total: int, ranks: int) -> int:
    """Most bytes of a block, whole pages.

    Args:
        chunk: bytes of one read, where they are set.
        total: bytes that all ranks want together, each counted once.
    """
    even = round_up(max(total // (ranks * BLOCKS_PER_RANK), 1), PAGE)
    return min(MAX_BLOCK[kind] if chunk is None else chunk, max(even, MIN_BLOCK[kind]))


def cut_blocks(
    wanted: Sequence[bytes], kinds: Sequence[SourceKind], chunks: Mapping[SourceKind, int | None], most: int
) -> list[Block]:
    """Cut what any rank wants into blocks, by file and offset.

    Bytes that just one rank wants are in blocks of their own, unless there are few of them.

    Args:
        wanted: of each rank, what `pack_ranges` says.
        kinds: of each file.
        chunks: bytes of one read of each kind, where they are set.
        most: bytes of a block, at most.
    """
    tables = [np.frombuffer(each, np.int64).reshape(-1, 3) for each in wanted]
    segments = [
        list(_segments([table[table[:, 0] == file, 1:] for table in tables], kind)) for file, kind in enumerate(kinds)
    ]
    blocks: list[Block] = []
    for kind in dict.fromkeys(kinds):
        total = sum(
            end - start for each, of in zip(segments, kinds, strict=True) if of is kind for start, end, _ in each
        )
        size = min(block_size(kind, chunks[kind], total, len(wanted)), most)
        for file, each in enumerate(segments):
            if kinds[file] is kind:
                blocks.extend(_blocks(file, each, size, MIN_BLOCK[kind]))
    blocks.sort(key=lambda block: (block.file, block.offset))
    return blocks


def _segments(ranges: Sequence[np.ndarray[Any, Any]], kind: SourceKind) -> Iterator[tuple[int, int, int]]:
    """Start, end and takers of each run of bytes that the same ranks want.

    Where the parts of two ranks meet within a page, both want this page. It goes with the part in front of it: a rank
    that wants it for the other part reads a page more by itself, and does not wait for another rank for its sake.
    """
    points = np.unique(np.concatenate([each.reshape(-1) for each in ranges]))
    if not len(points):
        return
    changes = np.zeros(len(points), np.int64 if len(ranges) < 63 else object)
    for rank, each in enumerate(ranges):
        merged = _disjoint(each)
        np.add.at(changes, np.searchsorted(points, merged[:, 0]), 1 << rank)
        np.subtract.at(changes, np.searchsorted(points, merged[:, 1]), 1 << rank)
    takers = np.cumsum(changes).tolist()
    places = points.tolist()
    meeting = PAGE if kind is SourceKind.FILE else 0
    start, current = places[0], takers[0]
    for index in range(1, len(places)):
        mask, place = takers[index], places[index]
        if mask and current and mask == current | takers[index + 1] and places[index + 1] - place <= meeting:
            continue
        if mask != current:
            if current:
                yield start, place, current
            start, current = place, mask


def _disjoint(ranges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ranges in order, those that meet or overlap made one: widened to whole pages, neighbours may overlap."""
    if len(ranges) < 2:
        return ranges
    ends = np.maximum.accumulate(ranges[:, 1])
    first = np.concatenate([[True], ranges[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([ranges[first, 0], ends[last]], 1)


def _blocks(file: int, segments: Iterable[tuple[int, int, int]], most: int, least: int) -> list[Block]:
    blocks: list[Block] = []
    for start, end, takers in segments:
        even = round_up(-(-(end - start) // -(-(end - start) // most)), PAGE)
        for piece in (ByteRange(each, min(each + even, end)) for each in range(start, end, even)):
            last = blocks[-1] if blocks else None
            if (
                last is not None
                and last.end == piece.start
                and min(last.length, piece.size) < least
                and last.length + piece.size <= most
            ):
                blocks[-1] = Block(file, last.offset, last.length + piece.size, last.takers | takers)
            else:
                blocks.append(Block(file, piece.start, piece.size, takers))
    return blocks


def without_cached(blocks: Sequence[Block], cached: Sequence[Sequence[int]], nodes: Sequence[int]) -> list[Block]:
    """The blocks without the takers whose node has them in its page cache: these copy them from there, each for itself.

    Args:
        cached: for each node, which blocks it has.
        nodes: of each rank.
    """
    ranks_of = [sum(1 << rank for rank, its in enumerate(nodes) if its == node) for node in range(len(cached))]
    drop = [0] * len(blocks)
    for node, numbers in enumerate(cached):
        for number in numbers:
            drop[number] |= ranks_of[node]
    return [block._replace(takers=block.takers & ~gone) for block, gone in zip(blocks, drop, strict=True)]


def bits(mask: int) -> tuple[int, ...]:
    """The numbers of the bits that are set."""
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def is_shared(block: Block) -> bool:
    """Whether several ranks take it, so that one reads it for them."""
    return block.takers & (block.takers - 1) != 0


def parties(blocks: Iterable[Block], ranks: int) -> list[int]:
    """For each rank, as bits, those that it depends on: they share blocks with it, or with one that does, and so on."""
    found = [1 << rank for rank in range(ranks)]
    for takers in {block.takers for block in blocks if is_shared(block)}:
        joined = takers
        for rank in bits(takers):
            joined |= found[rank]
        for rank in bits(joined):
            found[rank] = joined
    return found


def deal_out(
    blocks: Sequence[Block], domains: Sequence[int], beginnings: Mapping[int, Beginning]
) -> list[tuple[int, ...]]:
    """Who fills each shared block: the rank that reads it, and one of each other domain that receives it for that.

    Each is the taker that has the fewest bytes to read, or to receive, so far.

    Args:
        domains: of each rank, the ranks that it shares memory with.
        beginnings: by the index of the file; blocks that begin in one are its owner's, since it has those bytes.

    Returns:
        Indices of ranks, the reader first; none for a block that is not shared.
    """
    reads, receives = [0] * len(domains), [0] * len(domains)
    takers_of: dict[int, tuple[int, ...]] = {}
    fillers: list[tuple[int, ...]] = []
    for block in blocks:
        if not is_shared(block):
            fillers.append(())
            continue
        takers = takers_of.get(block.takers)
        if takers is None:
            takers = takers_of[block.takers] = bits(block.takers)
        beginning = beginnings.get(block.file)
        if beginning is not None and block.offset < beginning.length and beginning.owner in takers:
            reader = beginning.owner
        else:
            reader = min(takers, key=reads.__getitem__)
        reads[reader] += block.length
        chosen = [reader]
        for domain in dict.fromkeys(domains[rank] for rank in takers):
            if domain != domains[reader]:
                receiver = min((rank for rank in takers if domains[rank] == domain), key=receives.__getitem__)
                receives[receiver] += block.length
                chosen.append(receiver)
        fillers.append(tuple(chosen))
    return fillers
