"""Device addresses of a group's bytes, and the casts of its tensors: pure arithmetic on pointers."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.kernels.bits import ITEM_SIZES
from runai_model_streamer.pipeline.plan.casts import as_cast, is_cast
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.ranges import round_up

_APART: Final = 256
"""Alignment, in bytes, of each tensor in scratch memory. Copies there are as fast as to separate memory."""


class Piece(NamedTuple):
    """Bytes of one read that belong to one tensor."""

    start: int
    """Offset in the read bytes."""
    length: int
    pointer: int
    """Address on the device."""


class Cast(NamedTuple):
    """One tensor to cast on the device."""

    dtype: str
    """The file's dtype, by its name in the format."""
    source: int
    """Address to cast from."""
    target: int
    """Address to cast to."""
    elements: int


class Needs(NamedTuple):
    """The device memory of a group."""

    tensors: list[int]
    """Bytes of each non-empty tensor after its cast, in file order."""
    scratch: int
    """Bytes of scratch memory for tensors to cast; 0 without any."""

    @property
    def sizes(self) -> list[int]:
        """Sizes of the pieces of memory that an `Image` needs, in bytes."""
        return [*self.tensors, self.scratch] if self.scratch else self.tensors


class _Run(NamedTuple):
    file: int
    start: int
    """First byte in the file."""
    end: int
    pointer: int


class Image:
    """A group's tensors on the device, each in separate memory. Tensors to cast land in scratch memory.

    Args:
        group: the tensors.
        memory: one piece for each size of `needs_of(group, target).sizes`.
        target: the format's name of the dtype that floating-point tensors are cast to; None to leave all as they are.
    """

    def __init__(self, group: Group, memory: Sequence[torch.Tensor], target: str | None = None) -> None:
        with_bytes = [(part.file, tensor) for part in group.parts for tensor in part.tensors if tensor.nbytes]
        scratch = memory[len(with_bytes) :]
        self._scratch = scratch[0] if scratch else None
        self._memory = list(reversed(memory[: len(with_bytes)]))
        self.casts: list[Cast] = []
        """Casts to run when all bytes of the group have landed."""
        # In file order, as groups and headers are, so that both lists are sorted.
        self._runs: list[_Run] = []
        landed = scratch[0].data_ptr() if scratch else 0
        for (file, tensor), piece in zip(with_bytes, memory[: len(with_bytes)], strict=True):
            pointer = piece.data_ptr()
            if target is not None and is_cast(tensor, target):
                count = tensor.nbytes // ITEM_SIZES[tensor.dtype]
                self.casts.append(Cast(tensor.dtype, landed, pointer, count))
                pointer, landed = landed, landed + round_up(tensor.nbytes, _APART)
            self._runs.append(_Run(file, tensor.start, tensor.end, pointer))
        self._ends = [(run.file, run.end) for run in self._runs]

    def pieces(self, step: Step) -> Iterator[Piece]:
        """Yield the pieces of the step's bytes and their addresses. Padding and bytes between tensors are skipped."""
        end = step.offset + step.length
        for index in range(bisect_right(self._ends, (step.file, step.offset)), len(self._runs)):
            run = self._runs[index]
            if run.file != step.file or run.start >= end:
                return
            start = max(run.start, step.offset)
            yield Piece(start - step.offset, min(run.end, end) - start, run.pointer + start - run.start)

    def pop(self) -> torch.Tensor:
        """Return the memory of the next non-empty tensor, in file order, and drop the reference to it."""
        return self._memory.pop()

    def pop_scratch(self) -> torch.Tensor | None:
        """Return the scratch memory, once, and drop the reference to it."""
        scratch, self._scratch = self._scratch, None
        return scratch


def needs_of(group: Group, target: str | None = None) -> Needs:
    """Return the memory that an `Image` of the group needs."""
    tensors = [tensor for tensor in tensors_of(group) if tensor.nbytes]
    if target is None:
        return Needs([tensor.nbytes for tensor in tensors], 0)
    scratch = sum(round_up(tensor.nbytes, _APART) for tensor in tensors if is_cast(tensor, target))
    return Needs([as_cast(tensor, target).nbytes for tensor in tensors], scratch)


def tensors_of(group: Group) -> Iterator[TensorInfo]:
    """Yield the group's tensors, in file order."""
    for part in group.parts:
        yield from part.tensors
