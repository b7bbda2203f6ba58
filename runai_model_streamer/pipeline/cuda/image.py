"""Device addresses of a group's bytes, and the casts of its tensors: pure arithmetic on pointers."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, compress
from operator import attrgetter, ne
from typing import Final, NamedTuple

import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.pipeline.landing.tensors import TorchForm, torch_forms
from runai_model_streamer.pipeline.plan.casts import as_cast, is_cast
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.ranges import round_up

_APART: Final = 256
"""Alignment, in bytes, of each tensor in scratch memory. Copies there are as fast as to separate memory."""

# For passes over thousands of tensors, without a Python frame for each.
_NAME: Final = attrgetter("name")
_START: Final = attrgetter("start")
_END: Final = attrgetter("end")


class Copies(NamedTuple):
    """Copies from host memory to the device, in parallel lists without empty copies."""

    targets: list[int]
    """Addresses on the device."""
    sources: list[int]
    """Addresses in host memory, or offsets in the file."""
    sizes: list[int]
    """Bytes of each copy."""


class Cast(NamedTuple):
    """One tensor to cast on the device."""

    source: torch.Tensor
    """Its elements as the file has them, in scratch memory."""
    target: torch.Tensor
    """The tensor that the caller gets; of the same shape."""


class Needs(NamedTuple):
    """The device memory of a group."""

    tensors: list[TorchForm]
    """Each tensor after its cast, in file order."""
    scratch: int
    """Bytes of scratch memory for tensors to cast; 0 without any."""

    @property
    def forms(self) -> list[TorchForm]:
        """The tensors that an `Image` needs."""
        return [*self.tensors, ((self.scratch,), torch.uint8)] if self.scratch else self.tensors


class _Places(NamedTuple):
    """Where the bytes of one file's tensors are, in file order."""

    starts: list[int]
    """First byte in the file."""
    ends: list[int]
    pointers: list[int]
    """Address on the device."""


class Image:
    """A group's tensors on the device, each in separate memory. Tensors to cast land in scratch memory.

    Args:
        group: the tensors.
        memory: a tensor for each of `needs_of(group, target).forms`.
        target: the format's name of the dtype that floating-point tensors are cast to; None to leave all as they are.
    """

    def __init__(self, group: Group, memory: Sequence[torch.Tensor], target: str | None = None) -> None:
        infos = tensors_of(group)
        scratch = memory[len(infos) :]
        self._scratch = scratch[0] if scratch else None
        self.tensors = list(zip(map(_NAME, infos), memory, strict=False))
        """Name and tensor of those that were not handed out, in reverse file order. `pop` the next one."""
        self.tensors.reverse()
        self.casts: list[Cast] = []
        """Casts to run when all bytes of the group have landed. They keep the scratch memory."""
        self._places: dict[int, _Places] = {}
        pointers = list(map(torch.Tensor.data_ptr, memory))
        if target is not None:
            self._land_in_scratch(infos, memory, pointers, target)
        first = 0
        for part in group.parts:  # in file order, as headers are: so the lists are sorted
            places = self._places.setdefault(part.file, _Places([], [], []))
            last = first + len(part.tensors)
            starts, ends = list(map(_START, part.tensors)), list(map(_END, part.tensors))
            full = list(map(ne, starts, ends))  # nothing is copied to an empty tensor
            for column, values in zip(places, (starts, ends, pointers[first:last]), strict=True):
                column.extend(compress(values, full))
            first = last

    def _land_in_scratch(
        self, infos: Sequence[TensorInfo], memory: Sequence[torch.Tensor], pointers: list[int], target: str
    ) -> None:
        """Replace the pointers of tensors to cast, and note their casts."""
        position = 0
        for index, info in enumerate(infos):
            if self._scratch is None or not info.nbytes or not is_cast(info, target):
                continue
            ((shape, dtype),) = torch_forms([info])
            source = self._scratch[position : position + info.nbytes].view(dtype).view(shape)
            self.casts.append(Cast(source, memory[index]))
            pointers[index] = source.data_ptr()
            position += round_up(info.nbytes, _APART)

    def copies(self, step: Step, address: int) -> Copies:
        """Return the copies that bring a step's bytes to the device. Padding and bytes between tensors are skipped.

        Args:
            step: what was read.
            address: where its first byte is in host memory.
        """
        starts, ends, pointers = self._places[step.file]
        begin = step.offset
        end = begin + step.length
        first, last = bisect_right(ends, begin), bisect_left(starts, end)
        if first >= last:
            return Copies([], [], [])
        shift = address - begin
        targets = pointers[first:last]
        sources = [shift + start for start in starts[first:last]]
        sizes = [after - start for start, after in zip(starts[first:last], ends[first:last], strict=True)]
        # A tensor may begin before the step, or end after it.
        before = step.offset - starts[first]
        if before > 0:
            targets[0] += before
            sources[0] += before
            sizes[0] -= before
        sizes[-1] -= max(ends[last - 1] - end, 0)
        return Copies(targets, sources, sizes)

    def pop_scratch(self) -> torch.Tensor | None:
        """Return the scratch memory, once, and drop the reference to it."""
        scratch, self._scratch = self._scratch, None
        return scratch


def needs_of(group: Group, target: str | None = None) -> Needs:
    """Return the memory that an `Image` of the group needs."""
    tensors = tensors_of(group)
    if target is None:
        return Needs(torch_forms(tensors), 0)
    scratch = sum(round_up(tensor.nbytes, _APART) for tensor in tensors if is_cast(tensor, target))
    return Needs(torch_forms(as_cast(tensor, target) for tensor in tensors), scratch)


def tensors_of(group: Group) -> list[TensorInfo]:
    """Return the group's tensors, in file order."""
    return list(chain.from_iterable(part.tensors for part in group.parts))
