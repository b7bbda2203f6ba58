"""Checks the ranges of files that a caller asks for."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, Where
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.ranges import ByteRange

_LARGEST: Final = 2**63 - 1  # what torch can hold as a size


@dataclass(frozen=True, slots=True, init=False)
class FileChunks:
    """Ranges of bytes of one file or object, in any order. They may overlap, touch or be empty.

    Args:
        id: the caller's number for the file; it comes back with each range.
        path: a local path or an `s3://bucket/key` URL.
        offsets: first byte of each range.
        sizes: bytes of each range.

    Raises:
        ArgumentError, ArgumentTypeError: what the message says.
    """

    id: int
    path: str
    offsets: Sequence[int]
    sizes: Sequence[int]

    # Not dataclass's own: if this fails, the variables of its frame would show a query that signs the URL.
    def __init__(self, id: int, path: str, offsets: Sequence[int], sizes: Sequence[int]) -> None:  # noqa: A002
        path = veiled(path)
        for field, value in (("id", id), ("path", path), ("offsets", offsets), ("sizes", sizes)):
            object.__setattr__(self, field, value)
        object.__setattr__(self, "path", as_path(path))
        for field in ("offsets", "sizes"):
            object.__setattr__(self, field, _numbers(self.path, field, getattr(self, field)))
        if len(self.offsets) != len(self.sizes):
            raise ArgumentError(
                f"{len(self.offsets)} offsets and {len(self.sizes)} sizes: give one size for each offset",
                where=self.path,
            )

    @classmethod
    def contiguous(cls, id: int, path: str, offset: int, sizes: Sequence[int]) -> "FileChunks":  # noqa: A002
        """Make ranges of these sizes, one after the other, from `offset` on."""
        path = veiled(path)
        numbers = _numbers(as_path(path), "sizes", sizes)
        try:
            first = operator.index(offset)
        except TypeError as error:
            raise ArgumentTypeError(f"offset is a whole number, not {offset!r}", where=path) from error
        return cls(id, path, list(accumulate(numbers, initial=first))[: len(numbers)], numbers)

    def total_size(self) -> int:
        """Bytes of all ranges."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """Bytes of the largest range; 0 if there are no ranges."""
        return max(self.sizes, default=0)


def _numbers(path: str, field: str, numbers: Sequence[int]) -> list[int]:
    try:
        found = list(map(operator.index, numbers))
    except TypeError as error:
        raise ArgumentTypeError(f"{field} is a list of whole numbers, not {numbers!r}", where=path) from error
    if wrong := [number for number in found if not 0 <= number <= _LARGEST]:
        raise ArgumentError(f"{field} holds {wrong[0]}", where=path, remedy="each is from 0 to 2**63 - 1")
    return found


def tensors_of(chunks: FileChunks, size: int) -> list[TensorInfo]:
    """Describe each range as a tensor of bytes, in the caller's order.

    Raises:
        ArgumentError: a range goes beyond the file's `size` bytes.
    """
    found = []
    for index, (offset, length) in enumerate(zip(chunks.offsets, chunks.sizes, strict=True)):
        end = offset + length
        if end > size:
            span = ByteRange(offset, end)
            raise ArgumentError(
                f"range {index}, {span}, goes beyond the file's end: it has {size} bytes",
                where=Where(chunks.path, span),
            )
        found.append(TensorInfo(f"range {index}", "U8", (1, length), offset, end, 0))
    return found


def ascending(tensors: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
    """Cut the ranges, in the same order, into runs that ascend without overlap, as a plan needs them."""
    runs: list[list[TensorInfo]] = []
    end = 0
    for tensor in tensors:
        if not runs or (tensor.nbytes and tensor.start < end):
            runs.append([])
            end = 0
        runs[-1].append(tensor)
        if tensor.nbytes:
            end = tensor.end
    return runs
