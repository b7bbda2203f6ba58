"""Finds the parts of tensors that a caller selects, and their bytes in the file. Pure: no I/O, no threads, no torch."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple, SupportsIndex, TypeAlias

from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, Shape, TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import MAX_GAP


class TensorSlice(NamedTuple):
    """The part of a tensor with `start <= i < stop`, where `i` is the index along one dimension."""

    dim: int
    """The dimension. A negative one counts from the last."""
    start: int
    """From 0 on."""
    stop: int
    """At most the tensor's size along `dim`. Equal to `start` for a part without elements."""


@dataclass(frozen=True, slots=True)
class TensorShard:
    """One rank's part of a tensor that is cut along one dimension, as by `torch.chunk`.

    All ranks get the same size, rounded up. If the size is not a multiple of the ranks, the last ones get less, or
    nothing.
    """

    dim: int
    """The dimension. A negative one counts from the last."""
    rank: int
    """From 0 on."""
    world_size: int
    """Number of ranks."""


Selection: TypeAlias = TensorSlice | TensorShard | tuple[int, int, int] | bool | None
"""The wanted part of a tensor; True for all of it; False or None for nothing. A tuple has the fields of a
`TensorSlice`."""

Select: TypeAlias = Callable[[str], Selection] | Mapping[str, Selection]
"""Maps the name of a tensor to what is wanted of it. A tensor that a mapping does not name is wanted whole."""

_FORMS: Final = (
    "TensorSlice(dim, start, stop), TensorShard(dim, rank, world_size), True (all of it), False or None (nothing)"
)


class Rows(NamedTuple):
    """Pieces of one size, equally far apart, that make one tensor. Counted in elements of torch's dtype."""

    outer: int
    """Number of pieces."""
    stride: int
    """Elements from the start of one piece to the start of the next."""
    inner: int
    """Elements in a piece."""


class Selected(NamedTuple):
    """A tensor, or a part of one, and what is read for it."""

    info: TensorInfo
    """The tensor that the caller gets. If it has pieces, `start` is the first one's, and `end - start` their bytes."""
    reads: tuple[TensorInfo, ...]
    """The reads: the tensor itself; or each piece; or all bytes from the first piece to the last."""
    rows: Rows | None = None
    """Places of the pieces; None if the tensor itself is read."""


def select_parts(
    paths: Sequence[str],
    files: Sequence[Sequence[TensorInfo]],
    kinds: Sequence[SourceKind],
    select: object,
    check: Callable[[str, Iterable[TensorInfo]], None],
) -> list[list[Selected]]:
    """Find the wanted parts of each file's tensors, in file order.

    Args:
        paths: for messages.
        files: the tensors of each file.
        kinds: the kind of each file's source.
        select: a `Select`.
        check: raises if torch cannot hold one of these tensors of a path. It gets whole tensors, if any part of them
            is wanted.

    Raises:
        ArgumentTypeError: `select` is not a `Select`, or gives something other than a `Selection`.
        ArgumentError: it names a tensor that no file has, or a part that the tensor does not have.
    """
    wanted_of = _lookup(select, len(paths), files)
    found: list[list[Selected]] = []
    for path, tensors, kind in zip(paths, files, kinds, strict=True):
        asked = [(tensor, wanted_of(tensor.name)) for tensor in tensors]
        wanted = [(tensor, part) for tensor, part in asked if part is not None and part is not False]
        check(path, [tensor for tensor, _ in wanted])
        found.append([select_part(path, tensor, part, MAX_GAP[kind]) for tensor, part in wanted])
    return found


def _lookup(select: object, count: int, files: Iterable[Iterable[TensorInfo]]) -> Callable[[str], object]:
    if isinstance(select, Mapping):
        parts: Mapping[str, object] = select
        names = {tensor.name for tensors in files for tensor in tensors}
        unknown = [name for name in parts if name not in names]
        if unknown:
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            raise ArgumentError(
                f"select has names that are not among the tensors to read from the {count} files: "
                f"{', '.join(map(repr, unknown[:10]))}{more}"
            )
        return lambda name: parts.get(name, True)
    if callable(select):
        return select
    raise ArgumentTypeError(
        f"select is a function or a mapping from the name of a tensor, not {type(select).__name__}: {select!r}"
    )


def select_part(path: str, tensor: TensorInfo, wanted: object, gap: int) -> Selected:
    """Find what to read for a part of a tensor.

    Args:
        path: for messages.
        tensor: the whole tensor, with a dtype and shape that torch can hold.
        wanted: a `Selection` of something.
        gap: largest gap, in bytes, between two pieces that is read rather than skipped.

    Raises:
        ArgumentTypeError, ArgumentError: see `select_parts`.
    """
    if wanted is True:
        return Selected(tensor, (tensor,))
    dim, start, stop = _bounds(path, tensor, wanted)
    shape = tensor.shape
    outer, length = prod(shape[:dim]), shape[dim]
    whole = tensor.nbytes // outer if tensor.nbytes else 0
    # Multiplied first: a single number may be less than a byte.
    first, inner = (whole * start // length, whole * (stop - start) // length) if whole else (0, 0)
    begin = tensor.start + first
    end = begin + outer * inner
    sizes = Shape((*shape[:dim], stop - start, *shape[dim + 1 :]))
    part = tensor._replace(shape=sizes, start=begin, end=end)
    if outer == 1 or inner in (0, whole):
        return Selected(part, (part,))
    item = max(DTYPE_BITS[tensor.dtype] // 8, 1)
    rows = Rows(outer, whole // item, inner // item)
    if whole - inner > gap:
        return Selected(part, tuple(_flat(part, begin + row * whole, inner) for row in range(outer)), rows)
    return Selected(part, (_flat(part, begin, (outer - 1) * whole + inner),), rows)


def _flat(tensor: TensorInfo, start: int, size: int) -> TensorInfo:
    """Return the elements in `size` bytes from `start` on, as a tensor of one dimension."""
    return tensor._replace(shape=(size * 8 // DTYPE_BITS[tensor.dtype],), start=start, end=start + size)


def _bounds(path: str, tensor: TensorInfo, wanted: object) -> TensorSlice:
    """Return the part as a slice of a dimension that is not negative."""
    if isinstance(wanted, TensorShard):
        numbers = _whole(path, tensor, wanted, (wanted.dim, wanted.rank, wanted.world_size))
        dim = _dimension(path, tensor, wanted, numbers[0])
        rank, ranks = numbers[1:]
        if not 0 <= rank < ranks:
            raise ArgumentError(
                f"{_described(tensor)}: select gives {wanted}: rank is not from 0 to world_size - 1",
                where=path,
                tensor=tensor.name,
            )
        size = tensor.shape[dim]
        each = -(-size // ranks)
        found = TensorSlice(dim, min(rank * each, size), min((rank + 1) * each, size))
    elif isinstance(wanted, tuple) and len(wanted) == 3:
        numbers = _whole(path, tensor, wanted, wanted)
        found = TensorSlice(_dimension(path, tensor, wanted, numbers[0]), *numbers[1:])
        if not 0 <= found.start <= found.stop <= tensor.shape[found.dim]:
            size = tensor.shape[found.dim]
            fault = f"is not within the {size} of dimension {found.dim}: 0 <= start <= stop <= {size} must hold"
            raise ArgumentError(
                f"{_described(tensor)}: select gives {wanted}, which {fault}", where=path, tensor=tensor.name
            )
    else:
        raise ArgumentTypeError(
            f"{_described(tensor)}: select gives {wanted!r}, which is none of {_FORMS}", where=path, tensor=tensor.name
        )
    packed = 8 // DTYPE_BITS[tensor.dtype]  # numbers in a byte; 0 if one takes more than a byte
    if packed > 1 and found.dim == len(tensor.shape) - 1 and (found.start % packed or found.stop % packed):
        raise ArgumentError(
            f"{_described(tensor)}: select gives {wanted}, but torch packs {packed} numbers of {tensor.dtype} in an "
            f"element: along the last dimension start and stop ({found.start} and {found.stop}) must be multiples of "
            "that",
            where=path,
            tensor=tensor.name,
        )
    return found


def _described(tensor: TensorInfo) -> str:
    return f"tensor {tensor.name!r} of shape {list(tensor.shape)}"


def _whole(path: str, tensor: TensorInfo, wanted: object, numbers: Sequence[SupportsIndex]) -> tuple[int, int, int]:
    try:
        if any(isinstance(number, bool) for number in numbers):
            raise TypeError("a bool")
        first, second, third = map(operator.index, numbers)
    except TypeError as error:
        raise ArgumentTypeError(
            f"{_described(tensor)}: select gives {wanted!r}, which is not of whole numbers",
            where=path,
            tensor=tensor.name,
        ) from error
    return first, second, third


def _dimension(path: str, tensor: TensorInfo, wanted: object, dim: int) -> int:
    count = len(tensor.shape)
    if not -count <= dim < count:
        raise ArgumentError(
            f"{_described(tensor)}: select gives {wanted}, but the tensor has {count} dimensions",
            where=path,
            tensor=tensor.name,
        )
    return dim % count
