"""Where the bytes of a group go on the device: pure arithmetic on pointers."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from runai_model_streamer.io.safetensors import TensorInfo
from runai_model_streamer.pipeline.plan import Group, Step


class Piece(NamedTuple):
    """Bytes of one read that belong to one tensor."""

    start: int
    """Where they begin in what was read."""
    length: int
    pointer: int
    """Where they belong on the device."""


class _Run(NamedTuple):
    file: int
    start: int
    """First byte in the file."""
    end: int
    pointer: int


class Image:
    """A group's tensors on the device, each in memory of its own.

    Args:
        group: the tensors.
        memory: one piece for each size of `sizes_of(group)`.
    """

    def __init__(self, group: Group, memory: Sequence[torch.Tensor]) -> None:
        self._memory = list(reversed(memory))
        with_bytes = ((part.file, tensor) for part in group.parts for tensor in part.tensors if tensor.nbytes)
        # In file order, as groups and headers are, so that both lists are sorted.
        self._runs = [
            _Run(file, tensor.start, tensor.end, piece.data_ptr())
            for (file, tensor), piece in zip(with_bytes, memory, strict=True)
        ]
        self._ends = [(run.file, run.end) for run in self._runs]

    def pieces(self, step: Step) -> Iterator[Piece]:
        """What of the step's bytes goes where. Padding and bytes between tensors go nowhere."""
        end = step.offset + step.length
        for index in range(bisect_right(self._ends, (step.file, step.offset)), len(self._runs)):
            run = self._runs[index]
            if run.file != step.file or run.start >= end:
                return
            start = max(run.start, step.offset)
            yield Piece(start - step.offset, min(run.end, end) - start, run.pointer + start - run.start)

    def pop(self) -> torch.Tensor:
        """The memory of the next tensor that has bytes, in file order; nothing here refers to it any more."""
        return self._memory.pop()


def sizes_of(group: Group) -> list[int]:
    """Bytes of each of the group's tensors that has any, in file order."""
    return [tensor.nbytes for tensor in tensors_of(group) if tensor.nbytes]


def tensors_of(group: Group) -> Iterator[TensorInfo]:
    """The group's tensors, in file order."""
    for part in group.parts:
        yield from part.tensors
