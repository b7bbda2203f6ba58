"""What an index such as `[2:4, ..., 0]` wants of a tensor, and the part of it to read. Pure: no I/O, no torch."""

import operator
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.pipeline.plan.selection import TensorSlice

Index: TypeAlias = int | slice
"""What is wanted along one dimension."""

_ALL: Final = slice(None)


class Cut(NamedTuple):
    """A part to read, and what to take of it."""

    part: TensorSlice | None
    """None: the whole tensor."""
    rest: tuple[Index, ...]
    """The index to apply to the part."""


def cut_of(name: str, shape: Sequence[int], index: object) -> Cut:
    """Find the part of a tensor to read for an index.

    The part is cut along the first dimension that the index narrows.

    Raises:
        ArgumentTypeError: the index has something other than whole numbers, slices and one ellipsis.
        ArgumentError: it is out of range, has more dimensions than the tensor, or steps backwards.
    """
    wanted = _expanded(name, shape, index)
    narrowed = [_range(name, shape, dim, each) for dim, each in enumerate(wanted)]
    inner = [_inner(*each) for each in zip(wanted, narrowed, strict=True)]
    for dim, found in enumerate(narrowed):
        if len(found) < shape[dim]:
            start, stop = (found[0], found[-1] + 1) if found else (0, 0)
            part = TensorSlice(dim, start, stop)
            inner[dim] = 0 if isinstance(wanted[dim], int) else slice(0, stop - start, found.step)
            return Cut(part, tuple(inner))
    return Cut(None, tuple(inner))


def _inner(index: Index, positions: range) -> Index:
    return slice(positions.start, positions.stop, positions.step) if isinstance(index, slice) else index


def _expanded(name: str, shape: Sequence[int], index: object) -> list[Index]:
    """Return one index for each dimension."""
    if isinstance(index, list) and not index:  # nothing, as torch and safetensors have it
        index = slice(0, 0)
    given: list[Any] = list(index) if isinstance(index, tuple) else [index]
    before = next((at for at, each in enumerate(given) if each is Ellipsis), len(given))
    after = given[before + 1 :]
    del given[before:]
    found: list[Index] = []
    for each in (*given, *after):
        try:
            if isinstance(each, bool):
                raise TypeError("a bool")
            found.append(each if isinstance(each, slice) else operator.index(each))
        except TypeError as error:
            raise ArgumentTypeError(
                f"tensor {name!r}: a slice takes whole numbers, slices and one ellipsis, not {each!r}",
                remedy=f"index the whole tensor, get_tensor({name!r})[...]",
                tensor=name,
            ) from error
    missing = len(shape) - len(found)
    if missing < 0:
        raise ArgumentError(f"tensor {name!r} has {len(shape)} dimensions, and the index has {len(found)}", tensor=name)
    return [*found[: len(given)], *[_ALL] * missing, *found[len(given) :]]


def _range(name: str, shape: Sequence[int], dim: int, index: Index) -> range:
    """Return the positions that are wanted along a dimension."""
    size = shape[dim]
    if isinstance(index, slice):
        if index.step is not None and index.step < 1:
            raise ArgumentError(f"tensor {name!r}: a slice steps forwards, not by {index.step}", tensor=name)
        return range(*index.indices(size))
    position = index + size if index < 0 else index
    if not 0 <= position < size:
        raise ArgumentError(f"tensor {name!r} of shape {list(shape)}: {index} is outside dimension {dim}", tensor=name)
    return range(position, position + 1)
