"""Plans casts: dtypes, sizes, positions in memory, limits. Pure: no I/O, threads or compiler."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.kernels.bits import ITEM_SIZES
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import Group, Part, PlannedFile
from runai_model_streamer.ranges import PAGE, round_up

PIECE: Final = 512 << 10
"""Bytes of a file that are read and then cast at once. With their result they fit a CPU's second-level cache."""

ALIGNMENT: Final = 64
"""Tensors of one dtype that are neighbours in the file begin at a multiple of this, as torch's own tensors do."""

CASTABLE: Final = frozenset({torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn})
"""The dtypes that are cast. All others stay as they are."""

_TARGETS: Final = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


class CastRun(NamedTuple):
    """Neighbouring bytes of a group whose elements are all cast alike, or all kept."""

    start: int
    """Position of the first byte in the group's planned memory, which a step's `position` refers to."""
    end: int
    position: int
    """Position of the result in memory."""
    source: str
    """Their dtype in the file, by the format's name."""
    target: str
    """Their dtype in memory."""

    def place(self, position: int) -> int:
        """Return where the result of the element at `position` of the group's planned memory begins."""
        if self.source == self.target:
            return self.position + position - self.start
        return self.position + (position - self.start) // ITEM_SIZES[self.source] * ITEM_SIZES[self.target]


@dataclass(frozen=True, slots=True)
class CastLayout:
    """Where a group's tensors go when they are cast."""

    output: Group
    """The tensors after the cast. Their `start` and `end` count from the beginning of the group's memory."""
    runs: tuple[CastRun, ...]
    """In order. Bytes between two runs are not wanted."""


class Casting(NamedTuple):
    """What a load casts. Dtypes have the format's names."""

    target: str
    """The dtype that floating-point tensors get."""
    sources: frozenset[str]
    """The dtypes that are cast to it: never empty."""


class CastPlan(NamedTuple):
    """How a load casts, and how it shares the memory limit."""

    casting: Casting
    scratch_bytes: int
    """Size of one piece of scratch memory: reads land there, and are cast from there."""
    scratch_count: int
    """Maximum number of pieces of scratch memory."""
    slab_limit: int | None
    """The limit of the slabs that tensors live in: the load's limit without scratch memory."""
    group_limit: int | None
    """`slab_limit` in bytes of the files, for `plan_groups`."""


def target_name(dtype: object) -> str:
    """Return the format's name of a dtype that can be cast to.

    Raises:
        ArgumentTypeError: `dtype` is not a torch.dtype.
        ArgumentError: nothing can be cast to this dtype.
    """
    possible = "torch.bfloat16, torch.float16 or torch.float32"
    if not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(f"dtype is {possible}, or None for the file's own, not {dtype!r}")
    name = _TARGETS.get(dtype)
    if name is None:
        raise ArgumentError(
            f"dtype={dtype} cannot be cast to", remedy=f"use {possible}, or None for the file's own dtypes"
        )
    return name


def is_cast(tensor: TensorInfo, target: str) -> bool:
    """Return whether the tensor is cast: its dtype is castable, and is not `target` already."""
    return tensor.dtype != target and tensor.dtype in ITEM_SIZES


def as_cast(tensor: TensorInfo, target: str) -> TensorInfo:
    """Return the tensor with its dtype and size in memory. Its position there is not known yet: `start` is 0."""
    if not is_cast(tensor, target):
        return tensor._replace(start=0, end=tensor.nbytes)
    size = tensor.nbytes // ITEM_SIZES[tensor.dtype] * ITEM_SIZES[target]
    return tensor._replace(dtype=target, start=0, end=size)


def casting_of(files: Iterable[PlannedFile], target: str | None) -> Casting | None:
    """Return what is cast to `target` in the files; None if nothing is."""
    if target is None:
        return None
    sources = {tensor.dtype for file in files for tensor in file.tensors} & ITEM_SIZES.keys() - {target}
    return Casting(target, frozenset(sources)) if sources else None


def scratch_size(files: Sequence[PlannedFile]) -> int:
    """Return the bytes of scratch memory that one reader needs. A request to object storage is not cut into pieces."""
    return round_up(max((PIECE if file.kind is SourceKind.FILE else file.chunk for file in files), default=PIECE), PAGE)


def plan_cast(files: Sequence[PlannedFile], casting: Casting, limit: int | None, readers: int) -> CastPlan:
    """Plan how to cast within the limit.

    Args:
        files: what is read.
        casting: what is cast of it.
        limit: bytes that may be held at once, at least the largest tensor in memory and `scratch_size(files)`; None
            for no limit.
        readers: reads in flight at once.
    """
    target, sources = casting
    scratch = scratch_size(files)
    growth = max(1, *(ITEM_SIZES[target] // ITEM_SIZES[source] for source in sources))
    if limit is None:
        return CastPlan(casting, scratch, readers, None, None)
    largest = max(as_cast(tensor, target).nbytes for file in files for tensor in file.tensors)
    # At most a quarter of the limit: the rest has to hold several groups of cast tensors.
    count = max(1, min(readers, limit // 4 // scratch, (limit - largest) // scratch))
    slab_limit = limit - count * scratch
    return CastPlan(casting, scratch, count, slab_limit, slab_limit // growth)


def cast_layout(group: Group, target: str) -> CastLayout | None:
    """Plan where each tensor of a group goes when it is cast. Return None if no tensor is cast.

    Tensors of one dtype that are neighbours in the file are neighbours in memory, so that many small ones are cast in
    one call. Each starts at a multiple of its element's size.
    """
    dtypes = {tensor.dtype for part in group.parts for tensor in part.tensors}
    if not dtypes & ITEM_SIZES.keys() - {target}:
        return None
    runs: list[CastRun] = []
    tensors: list[TensorInfo] = []
    end = payload = 0
    for part in group.parts:
        shift = part.position - part.offset
        for tensor in part.tensors:
            found = as_cast(tensor, target)
            if tensor.nbytes:
                start = tensor.start + shift
                if runs and runs[-1].end == start and runs[-1].source == tensor.dtype:
                    runs[-1] = runs[-1]._replace(end=start + tensor.nbytes)
                else:
                    end = round_up(end, ALIGNMENT)
                    runs.append(CastRun(start, start + tensor.nbytes, end, tensor.dtype, found.dtype))
                found = found._replace(start=end, end=end + found.end)
                payload += found.nbytes
                end = found.end
            tensors.append(found)
    output = Group(group.index, (Part(0, 0, end, 0, tensors),), group.steps, payload, round_up(end, PAGE))
    return CastLayout(output, tuple(runs))
