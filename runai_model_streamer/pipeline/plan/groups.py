"""Headers and sizes in, groups and read steps out. Pure: no I/O, no threads, no memory of the tensors' size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE, ByteRange, round_up, widen

GROUP_BYTES: Final = 16 << 20
"""Aim for the size of a group, and of the slab that it lands in."""

MAX_GAP: Final = {SourceKind.FILE: 64 << 10, SourceKind.OBJECT: 1 << 20}
"""Bytes between two wanted tensors that are read and thrown away rather than skipped.

On the local disk a second read costs about what 64 KiB do at 2.5 GB/s and 16 in flight; a second request to object
storage about what 1 MiB does on a connection of 100 MB/s.
"""


REST_BYTES: Final = 64 << 10
"""Where reads may differ in size, the last of a part goes with the one before it if it is no longer than this.

Widened to whole pages, a tensor of so many chunks is a page longer than they are.
"""

LARGE_BYTES: Final = 32 << 20
"""Most bytes of one read from memory, or from storage as fast: each takes some Python, in turns with all readers.

Warm 4 GB on 2 CPUs, in turns with reads of 8 MiB: 2% less CPU time, and as fast where kept, 2% faster where dropped.
"""

_KEPT: Final = {SourceKind.FILE: PAGE, SourceKind.OBJECT: 8}
"""A part's place in memory is its place in the file modulo this: what direct reads need, and what any dtype needs.

No more than that: reads are cut at multiples of the chunk in memory, and by as many bytes as the first is shorter,
there would be one more request at the end.
"""


ALIGNING: Final = 3 * PAGE
"""Most bytes of memory that alignment adds to one part: in front of it, in front of its read, and behind that."""


class PlannedFile(NamedTuple):
    """One file, as far as planning needs to know it."""

    size: int
    """Bytes in the file."""
    kind: SourceKind
    alignment: int
    """Reads that start and end on multiples of this are fastest; divides `PAGE`."""
    chunk: int
    """Most bytes of one read, `rest` left aside; a multiple of `PAGE`."""
    tensors: Sequence[TensorInfo]
    """The tensors wanted, in file order."""
    rest: int = 0
    """The last read of a part goes with the one before it if it is no longer than this."""
    large: int = 0
    """Most bytes of one read where it pays to make them larger than `chunk`."""


class Part(NamedTuple):
    """A run of consecutive tensors of one file, and the one stretch of the file that holds them."""

    file: int
    """Index of the file."""
    offset: int
    """First byte of the stretch in the file: the first tensor's that has any, rounded down to the file's alignment."""
    length: int
    """Bytes of the stretch; 0 when all its tensors are empty."""
    position: int
    """Where in the group's memory the stretch begins: after a multiple of `PAGE`, and like `offset` as to alignment."""
    tensors: Sequence[TensorInfo]


class Step(NamedTuple):
    """One read."""

    file: int
    offset: int
    length: int
    position: int
    """Where in the group's memory it lands."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive tensors that share one piece of memory and become ready together."""

    index: int
    """Position in the plan."""
    parts: tuple[Part, ...]
    steps: int
    """How many reads fill it; 0 when all its tensors are empty."""
    payload: int
    """Bytes from the first to the last of each part's tensors, empty ones left aside."""
    footprint: int
    """Bytes of memory it needs, with what alignment adds to the payload."""

    @property
    def charge(self) -> int:
        """Bytes that it counts for against the memory limit.

        Those that it needs, but for what alignment adds to one part: so a limit of the largest tensor is enough.
        """
        return max(self.payload, self.footprint - ALIGNING)

    @property
    def first_name(self) -> str:
        """The name of its first tensor, by which messages call it. No group is without any."""
        return self.parts[0].tensors[0].name


class Grouping(NamedTuple):
    """How a load's groups are planned and read: what processes that share it have to do alike."""

    limit: int | None
    target: int | None = None
    """As for `plan_groups`, both."""
    readers: int | None = None
    """Most reads that may wait at once for what others read; None for any number."""


def group_target(limit: int | None) -> int:
    """Bytes of memory that a group aims for: a quarter of the limit at most, so that several fit into it."""
    return GROUP_BYTES if limit is None else min(GROUP_BYTES, limit // 4)


def largest_tensor(files: Iterable[PlannedFile]) -> tuple[int, TensorInfo] | None:
    """The file index and tensor with the most bytes; the first of equals; None when there is no tensor."""
    largest = None
    for index, file in enumerate(files):
        for tensor in file.tensors:
            if largest is None or tensor.end - tensor.start > largest[1].nbytes:
                largest = (index, tensor)
    return largest


def plan_groups(files: Sequence[PlannedFile], limit: int | None = None, target: int | None = None) -> Iterator[Group]:
    """Cut the tensors of `files`, in order, into groups.

    A group is at most `target` bytes of memory, by default `group_target(limit)`; only a tensor that is larger gets a
    larger group, which small tensors before it may share.

    Args:
        limit: bytes that may be held at once, at least the largest tensor; None for no limit.
        target: aim for this many bytes instead, where groups take no host memory and the limit does not bound them.
    """
    builder = _Builder(limit, target)
    for index, file in enumerate(files):
        yield from builder.add_file(index, file)
    yield from builder.finish()


def steps_of(group: Group, files: Sequence[PlannedFile], large: int = 0) -> Iterator[Step]:
    """The reads that fill a group, in file order.

    Args:
        group: the group.
        files: of the plan.
        large: bytes of a read that would pay; reads are larger than a chunk as far as `PlannedFile.large` lets them.
            0: there are as many reads as `Group.steps` says, else no more.
    """
    for part in group.parts:
        file = files[part.file]
        chunk = max(file.chunk, min(large, file.large))
        start, end = part.position, part.position + part.length
        for cut in (*_cuts(start, end, chunk, file.rest), end):
            if cut > start:
                yield Step(part.file, part.offset + start - part.position, cut - start, start)
                start = cut


def _cuts(start: int, end: int, chunk: int, rest: int) -> range:
    """Where in the group's memory reads meet.

    At multiples of the chunk in memory, not in the file: two readers whose reads meet within a huge page that is
    fresh both clear one, and one of the two is thrown away (4 GB kept, 2 CPUs: 0.47 CPU seconds per GB, not 0.34).
    """
    if end - start <= chunk:
        return range(0)
    return range(round_up(start + 1, chunk), end - rest, chunk)


class _Builder:
    """Collects parts until a group is full."""

    def __init__(self, limit: int | None, target: int | None) -> None:
        self._target = group_target(limit) if target is None else target
        self._limit = limit
        self._index = 0
        self._reset()

    def _reset(self) -> None:
        self._parts: list[Part] = []
        self._payload = self._footprint = self._steps = 0

    def add_file(self, index: int, file: PlannedFile) -> Iterator[Group]:
        tensors, count = file.tensors, len(file.tensors)
        gap, target = MAX_GAP[file.kind], self._target
        first = 0
        while first < count:
            start = end = tensors[first].start
            # Bytes of memory that this part may still take, alignment at both of its ends left aside.
            room = target - self._footprint - 2 * PAGE
            last, full = first, False
            while last < count:
                tensor = tensors[last]
                # An empty tensor needs no bytes: neither those in front of it nor those behind are read for its sake.
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
        """Whether a tensor that does not fit goes into this group all the same.

        It has to go somewhere when the group is empty. Small tensors before one that needs a group of its own
        anyway share it, rather than make a group of a few bytes.
        """
        before = self._payload + end - start
        if before == 0:
            return True
        if tensor.nbytes <= self._target or before > self._target // 8:
            return False
        before = self._footprint + PAGE if self._parts else 0
        return self._limit is None or before + tensor.end - start <= self._limit

    def _add(self, index: int, file: PlannedFile, span: ByteRange, tensors: Sequence[TensorInfo]) -> None:
        read = widen(span, file.alignment, file.size) if span.size else ByteRange(span.start, span.start)
        position = round_up(self._footprint, PAGE) + read.start % _KEPT[file.kind]
        part = Part(index, read.start, read.size, position, tensors)
        self._parts.append(part)
        self._payload += span.size
        if read.size:
            self._footprint = position + read.size
            self._steps += len(_cuts(position, self._footprint, file.chunk, file.rest)) + 1

    def finish(self) -> Iterator[Group]:
        if self._parts:
            yield Group(self._index, tuple(self._parts), self._steps, self._payload, round_up(self._footprint, PAGE))
            self._index += 1
            self._reset()
