"""Plans groups and reads from headers and sizes. Pure: no I/O, no threads, and no memory as large as the tensors."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange, round_up, widen

GROUP_BYTES: Final = 16 << 20
"""Target size of a group, and of the slab that it lands in."""

LARGE_GROUP_BYTES: Final = 64 << 20
"""Target size of a group on storage so fast that Python, which runs for each group with the GIL, would limit it.

Tensors of 2 MiB take 0.6 of the CPU time and of the Python (benchmarks/RUNS.md).
"""

SMALL_GROUPS: Final = 16
"""Groups that are small there, too, so that the first tensors come as early."""

MAX_GAP: Final = {SourceKind.FILE: 64 << 10, SourceKind.OBJECT: 1 << 20}
"""Largest gap between two wanted tensors that is read and thrown away. A larger gap is skipped.

A second read of a local disk costs about as much as 64 KiB at 2.5 GB/s with 16 reads in flight. A second request to
object storage costs about as much as 1 MiB on a connection of 100 MB/s.
"""

REST_BYTES: Final = 64 << 10
"""A last read of at most this size is joined to the one before it, if reads may differ in size.

A tensor of a whole number of chunks is a page longer once it is widened to whole pages.
"""

LARGE_BYTES: Final = 32 << 20
"""Largest read from memory, or from storage that is as fast. Each read runs some Python, which holds the GIL.

Against reads of 8 MiB it takes 2% less CPU time (benchmarks/RUNS.md).
"""

LARGEST_BYTES: Final = 128 << 20
"""Largest read of a model that is so large that readers hold little of it at once."""

_MODULUS: Final = {SourceKind.FILE: PAGE, SourceKind.OBJECT: 8}
"""A part's position in memory equals its offset in the file, modulo this. Direct reads and writes need whole pages; any
dtype needs 8 bytes.

For other objects it is not more than that: reads are cut at multiples of the chunk in memory, so a later start would
shorten the first read and add a request at the end.
"""

ALIGNING: Final = 3 * PAGE
"""Bytes of memory that alignment adds to one part at most: before the part, before its read, and after the read."""


class PlannedFile(NamedTuple):
    """What planning needs to know about one file."""

    size: int
    """Bytes in the file."""
    kind: SourceKind
    alignment: int
    """Reads that start and end on multiples of this are fastest; divides `PAGE`."""
    chunk: int
    """Maximum size of a read, before `rest` is added; a multiple of `PAGE`."""
    tensors: Sequence[TensorInfo]
    """The wanted tensors, in file order."""
    rest: int = 0
    """A last read of at most this size is joined to the one before it."""
    large: int = 0
    """Maximum size of a read where reads larger than `chunk` are faster; 0 if they never are."""
    group: int = 0
    """Target size of groups after the first `SMALL_GROUPS`, if larger than the plan's."""
    shared_copies: bool = True
    """Whether all CPUs share the copy of one group from the page cache. Otherwise reads have the size that pays."""
    cuts: tuple[int, ...] = ()
    """Offsets, in order, at which reads end: where what is on the node's disk of an object begins and ends."""
    paged: bool = False
    """Whether a part's place in its page is the same in memory as in the file, as always for `SourceKind.FILE`."""


class Part(NamedTuple):
    """Consecutive tensors of one file, and the range of the file that holds them."""

    file: int
    """Index of the file."""
    offset: int
    """First byte of the range in the file: the first tensor with bytes, rounded down to the file's alignment."""
    length: int
    """Bytes of the range; 0 when all tensors are empty."""
    position: int
    """Where the range begins in the group's memory: a multiple of `PAGE`, plus `offset` modulo `_MODULUS`."""
    tensors: Sequence[TensorInfo]


class Step(NamedTuple):
    """One read."""

    file: int
    offset: int
    length: int
    position: int
    """Where it lands in the group's memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive tensors that share one piece of memory and become ready together."""

    index: int
    """Position in the plan."""
    parts: tuple[Part, ...]
    steps: int
    """Number of reads that fill it; 0 when all its tensors are empty."""
    payload: int
    """Bytes from the first to the last tensor of each part, without empty tensors."""
    footprint: int
    """Bytes of memory that it needs: the payload and what alignment adds."""
    target: int = 0
    """Size of memory that suits it and groups like it; 0 if unknown."""

    @property
    def charge(self) -> int:
        """Bytes that count against the memory limit.

        The footprint without what alignment adds to one part, so that a limit equal to the largest tensor is enough.
        """
        return max(self.payload, self.footprint - ALIGNING)

    @property
    def first_name(self) -> str:
        """Name of its first tensor, for messages. Every group has a tensor."""
        return self.parts[0].tensors[0].name


class Grouping(NamedTuple):
    """How a load's groups are planned and read. Processes that share a load need the same one."""

    limit: int | None
    """As for `plan_groups`."""
    target: int | None = None
    """As for `plan_groups`."""
    readers: int | None = None
    """Maximum reads in flight if a read may wait for another's bytes, since each holds a slot or scratch memory.
    None for any number."""


def group_target(limit: int | None) -> int:
    """Return the target size of a group: at most a quarter of the limit, so that several groups fit."""
    return GROUP_BYTES if limit is None else min(GROUP_BYTES, limit // 4)


def largest_tensor(files: Iterable[PlannedFile]) -> tuple[int, TensorInfo] | None:
    """Return the largest tensor and the index of its file; the first of equals; None when there is no tensor."""
    largest = None
    for index, file in enumerate(files):
        for tensor in file.tensors:
            if largest is None or tensor.end - tensor.start > largest[1].nbytes:
                largest = (index, tensor)
    return largest


def plan_groups(files: Sequence[PlannedFile], limit: int | None = None, target: int | None = None) -> Iterator[Group]:
    """Cut the tensors of `files`, in order, into groups.

    A group has at most `target` bytes of memory. A tensor that is larger gets a larger group, which small tensors
    before it may share.

    Args:
        files: what to read of each.
        limit: bytes that may be held at once, at least the largest tensor; None for no limit.
        target: size of a group; None for `group_target(limit)`. For groups that take no host memory, which the limit
            does not bound.
    """
    builder = _Builder(limit, target)
    for index, file in enumerate(files):
        yield from builder.add_file(index, file)
    yield from builder.finish()


def steps_of(group: Group, files: Sequence[PlannedFile], large: int = 0, small: int | None = None) -> Iterator[Step]:
    """Yield the reads that fill a group, in file order.

    Args:
        group: the group.
        files: the files of the plan.
        large: size of a read that is fast now. Reads grow from the chunk to this size, if `PlannedFile.large` allows
            it. Then there may be fewer reads than `Group.steps`.
        small: the largest read, in whole huge pages, near the end of a load; None for the chunk.
    """
    for part in group.parts:
        file = files[part.file]
        chunk = max(file.chunk, min(large, file.large)) if small is None else min(file.chunk, small)
        start, end = part.position, part.position + part.length
        for cut in (*_all_cuts(part, file, chunk), end):
            if cut > start:
                yield Step(part.file, part.offset + start - part.position, cut - start, start)
                start = cut


def _all_cuts(part: Part, file: PlannedFile, chunk: int) -> Iterable[int]:
    start, end = part.position, part.position + part.length
    if not file.cuts:
        return _cuts(start, end, chunk, file.rest)
    first, last = bisect_right(file.cuts, part.offset), bisect_left(file.cuts, part.offset + part.length)
    own = [offset - part.offset + start for offset in file.cuts[first:last]]
    edges = [start, *own, end]
    return sorted({*own, *(cut for one, other in pairwise(edges) for cut in _cuts(one, other, chunk, file.rest))})


def _cuts(start: int, end: int, chunk: int, rest: int) -> range:
    """Return where in the group's memory one read ends and the next begins.

    At multiples of the chunk in memory, not in the file. If two reads met within a fresh huge page, both readers would
    clear a page, and one of the two would be thrown away (0.47 CPU seconds per GB instead of 0.34).
    """
    if end - start <= chunk:
        return range(0)
    return range(round_up(start + 1, chunk), end - rest, chunk)


class _Builder:
    """Collects parts until a group is full."""

    def __init__(self, limit: int | None, target: int | None) -> None:
        self._target = self._first_target = group_target(limit) if target is None else target
        self._limit = limit
        self._index = 0
        self._reset()

    def _reset(self) -> None:
        self._parts: list[Part] = []
        self._payload = self._footprint = self._steps = 0

    def add_file(self, index: int, file: PlannedFile) -> Iterator[Group]:
        tensors, count = file.tensors, len(file.tensors)
        gap = MAX_GAP[file.kind]
        first = 0
        while first < count:
            start = end = tensors[first].start
            target = self._target = max(self._first_target, file.group if self._index >= SMALL_GROUPS else 0)
            # Bytes of memory that this part may still take, without alignment at its two ends.
            room = target - self._footprint - 2 * PAGE
            last, full = first, False
            while last < count:
                tensor = tensors[last]
                # Nothing is read for an empty tensor: neither the bytes before it nor those after it.
                if tensor.end > tensor.start:
                    if start == end:
                        start = end = tensor.start
                    if tensor.start - end > gap:
                        break
                    if tensor.end - start > room:
                        full = True
                        break
                    end = tensor.end
                last += 1
            if full and self._takes_large(tensors[last], start, end):
                end = tensors[last].end
                last += 1
            if last > first:
                self._add(index, file, ByteRange(start, end), tensors[first:last])
            if full:
                yield from self.finish()
            first = last

    def _takes_large(self, tensor: TensorInfo, start: int, end: int) -> bool:
        """Return whether a tensor that does not fit goes into this group nevertheless.

        It does when the group is empty. It also does when it needs a large group anyway: small tensors before it then
        share that group instead of making one of a few bytes.
        """
        before = self._payload + end - start
        if before == 0:
            return True
        if tensor.nbytes <= self._target or before > self._target // 8:
            return False
        occupied = self._footprint + PAGE if self._parts else 0
        return self._limit is None or occupied + tensor.end - start <= self._limit

    def _add(self, index: int, file: PlannedFile, span: ByteRange, tensors: Sequence[TensorInfo]) -> None:
        read = widen(span, file.alignment, file.size) if span.size else ByteRange(span.start, span.start)
        position = round_up(self._footprint, PAGE) + read.start % (PAGE if file.paged else _MODULUS[file.kind])
        part = Part(index, read.start, read.size, position, tensors)
        self._parts.append(part)
        self._payload += span.size
        if read.size:
            self._footprint = position + read.size
            self._steps += len([*_all_cuts(part, file, file.chunk)]) + 1

    def finish(self) -> Iterator[Group]:
        if self._parts:
            footprint = round_up(self._footprint, PAGE)
            yield Group(self._index, tuple(self._parts), self._steps, self._payload, footprint, self._target)
            self._index += 1
            self._reset()
