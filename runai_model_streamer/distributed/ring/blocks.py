"""Cuts the bytes that ranks share into blocks, and decides which rank fills each. Pure: the same on every rank."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import MAX_GAP, PlannedFile
from runai_model_streamer.ranges import PAGE, ByteRange, round_up, widen

BLOCKS_PER_RANK: Final = 8
"""Minimum blocks for each rank, so that the ranks' shares differ by an eighth at most."""

MIN_BLOCK: Final = {SourceKind.FILE: 256 << 10, SourceKind.OBJECT: 1 << 20}
"""Minimum bytes of a block: fewer are not worth a separate read."""

MAX_BLOCK: Final = {SourceKind.FILE: 4 << 20, SourceKind.OBJECT: 8 << 20}
"""Maximum bytes of a block without RUNAI_STREAMER_CHUNK_BYTESIZE. Larger blocks help requests, but not direct reads."""


class Block(NamedTuple):
    """Consecutive bytes of one file. One rank reads them for all ranks that want any of them."""

    file: int
    """Index of the file."""
    offset: int
    length: int
    takers: int
    """Bit i is set if rank i wants any of it. i is the rank's index among the ranks that share the load."""

    @property
    def end(self) -> int:
        """Offset in the file after its last byte."""
        return self.offset + self.length


class Beginning(NamedTuple):
    """The first bytes of an object. The rank that opened it has them."""

    length: int
    owner: int
    """Index of the rank."""


def wanted_ranges(file: PlannedFile) -> Iterator[ByteRange]:
    """Yield the ranges that a rank's reads of the file stay within, in file order, however its tensors are grouped."""
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
    """Encode the ranges that this rank wants of all files, for the others."""
    rows = [(index, *span) for index, file in enumerate(files) for span in wanted_ranges(file)]
    return np.asarray(rows, np.int64).reshape(-1, 3).tobytes()


def block_size(kind: SourceKind, chunk: int | None, total: int, ranks: int) -> int:
    """Return the maximum bytes of a block; whole pages.

    Args:
        kind: of the file.
        chunk: bytes of one read, if set; else None.
        total: bytes that all ranks want together, each counted once.
        ranks: number of ranks.
    """
    even = round_up(max(total // (ranks * BLOCKS_PER_RANK), 1), PAGE)
    return min(MAX_BLOCK[kind] if chunk is None else chunk, max(even, MIN_BLOCK[kind]))


def cut_blocks(
    wanted: Sequence[bytes], kinds: Sequence[SourceKind], chunks: Mapping[SourceKind, int | None], most: int
) -> list[Block]:
    """Cut the bytes that any rank wants into blocks, ordered by file and offset.

    Bytes that only one rank wants get separate blocks, unless they are few.

    Args:
        wanted: each rank's `pack_ranges`.
        kinds: the kind of each file.
        chunks: bytes of one read for each kind, if set; else None.
        most: maximum bytes of a block.
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
    """Yield start, end and takers of each run of bytes that the same ranks want.

    If the parts of two ranks meet within a page, both want this page. It joins the part before it. The rank of the
    other part then reads one more page itself, and need not wait for another rank.
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
    """Merge ranges that meet or overlap, as neighbours widened to whole pages may. The ranges are in order."""
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
    """Remove from each block the takers whose node has it in its page cache: they copy it from there themselves.

    Args:
        blocks: all blocks.
        cached: for each node, the numbers of the blocks that it has.
        nodes: the node of each rank.
    """
    ranks_of = [sum(1 << rank for rank, its in enumerate(nodes) if its == node) for node in range(len(cached))]
    drop = [0] * len(blocks)
    for node, numbers in enumerate(cached):
        for number in numbers:
            drop[number] |= ranks_of[node]
    return [block._replace(takers=block.takers & ~gone) for block, gone in zip(blocks, drop, strict=True)]


def bits(mask: int) -> tuple[int, ...]:
    """Return the numbers of the bits that are set."""
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def is_shared(block: Block) -> bool:
    """Whether several ranks take the block, so that one reads it for all."""
    return block.takers & (block.takers - 1) != 0


def parties(blocks: Iterable[Block], ranks: int) -> list[int]:
    """Return for each rank, as bits, the ranks that it depends on: they share blocks with it, perhaps indirectly."""
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
    """Choose the ranks that fill each shared block: one reads it, and one of each other domain receives it.

    Each is the taker with the fewest bytes to read, or to receive, so far.

    Args:
        blocks: all blocks.
        domains: for each rank, the same number for ranks that share memory.
        beginnings: by the index of the file. A block that begins in one goes to its owner, who has those bytes.

    Returns:
        For each block the indices of ranks, the reader first; none for a block that is not shared.
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
