"""Reads and validates the header of a safetensors file.

The format: 8 bytes, little-endian, hold the header's length. The header follows, one JSON object. The tensors' bytes
fill the rest of the file without gaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import prod
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from runai_model_streamer.checkpoint.foreign import recognise
from runai_model_streamer.checkpoint.gc_pause import gc_paused
from runai_model_streamer.checkpoint.strict_json import AGAIN, count_strings, parse, parse_every_key, short
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, Shape, TensorInfo
from runai_model_streamer.errors import HeaderError
from runai_model_streamer.io.source import Source

MAX_HEADER_BYTES: Final = 100_000_000
"""Maximum length of a header, by the format."""

_PREFIX: Final = 8
_METADATA: Final = "__metadata__"
_FIELDS: Final = ("dtype", "shape", "data_offsets")
_LARGEST: Final = 2**63 - 1  # what NumPy and torch can hold as a size
_QUICK_DIMENSIONS: Final = 64  # more may multiply to a number of megabytes: too slow for a column
_QUICK_ELEMENTS: Final = 2**56  # times 64 bits still fits an int64


@dataclass(frozen=True, slots=True)
class Header:
    """The contents of a file, checked against the format and the file's size."""

    tensors: tuple[TensorInfo, ...]
    """In file order. Empty tensors that share a place come in the header's order."""
    metadata: dict[str, str]
    """The header's `__metadata__`; empty if it has none."""
    data_start: int
    """Byte in the file where the data section starts."""


class _Columns(NamedTuple):
    """The header's entries as columns, each entry valid in itself. Offsets count from the start of the data section."""

    names: Sequence[str]
    dtypes: Sequence[str]
    shapes: Sequence[list[int]]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def read_header(source: Source) -> Header:
    """Read and validate the header of the file or object behind `source`. Tensors' bytes are not read.

    Raises:
        HeaderError: not a safetensors file, or it breaks the format, or has another length than its header says.
        ReadError: the source could not be read. `TruncatedError`: it ended before its own size.
    """
    raw = bytearray(_header_length(source))
    source.read_into(_PREFIX, memoryview(raw))
    with gc_paused():
        return _validated(source.path, raw, source.size)


def _validated(path: str, raw: bytearray, size: int) -> Header:
    entries = parse(path, raw)
    has_metadata = _METADATA in entries
    metadata = _metadata(path, entries.pop(_METADATA, None))
    columns = _columns(entries) or _columns_one_by_one(path, entries)
    # A tensor has five strings: its name, three keys and the dtype. The metadata has its name, its keys and its values.
    # More strings mean an unknown field, or a key that occurs twice: orjson keeps only the last.
    if count_strings(raw) != 5 * len(entries) + has_metadata + 2 * len(metadata):
        parse_every_key(path, raw)
    columns = _in_file_order(path, columns)
    data_start = _PREFIX + len(raw)
    _check_size(path, size, data_start, columns)
    return Header(_tensors(columns, data_start), metadata, data_start)


def _header_length(source: Source) -> int:
    """Read the header's length, and check that the file has room for it."""
    path, size = source.path, source.size
    if not size:
        raise HeaderError("is empty", where=path, remedy="download or copy it again", lead=" ", sep=": ")
    prefix = bytearray(min(size, _PREFIX))
    source.read_into(0, memoryview(prefix))
    length = int.from_bytes(prefix, "little")
    if size >= _PREFIX and 0 < length <= min(size - _PREFIX, MAX_HEADER_BYTES):
        return length
    if size >= _PREFIX and 0 < length <= MAX_HEADER_BYTES:
        raise HeaderError(
            f"is incomplete, or not a safetensors file: its header should have {length} bytes, but the file ends "
            f"{_PREFIX + length - size} bytes before that (it has {size} bytes)",
            where=path,
            remedy="download or copy it again",
            lead=" ",
        )
    start = f"it starts with {bytes(prefix)!r}"
    if known := recognise(bytes(prefix)):
        what, remedy = known
        raise HeaderError(f"is not a safetensors file: {start}: {what}", where=path, remedy=remedy, lead=" ", sep=": ")
    if size < _PREFIX:
        raise HeaderError(
            f"is not a safetensors file, or cut short: {start} and has no more",
            where=path,
            remedy="download it again",
            lead=" ",
        )
    raise HeaderError(
        f"is not a safetensors file, or damaged: {start}, so its header would have {length} bytes (from 1 to "
        f"{MAX_HEADER_BYTES} are allowed)",
        where=path,
        remedy="look at what it is, or download it again",
        lead=" ",
    )


def _metadata(path: str, metadata: Any) -> dict[str, str]:
    if metadata is None:  # missing, or null, which the format's own reader accepts
        return {}
    if type(metadata) is not dict:
        raise HeaderError(f"{_METADATA} is {short(metadata)}, not an object of strings", where=path, remedy=AGAIN)
    for key, value in metadata.items():
        if type(value) is not str:
            raise HeaderError(f"{_METADATA}: {short(key)} is {short(value)}, not a string", where=path, remedy=AGAIN)
    return metadata


def _columns(entries: dict[str, Any]) -> _Columns | None:
    """Turn the entries into columns if a quick check finds each valid, else return None.

    Each step is one pass in C over a whole column: first the types, then the arithmetic.
    """
    rows = entries.values()
    try:
        dtypes, shapes, pairs = (list(map(itemgetter(field), rows)) for field in _FIELDS)
        bits = np.fromiter(map(DTYPE_BITS.__getitem__, dtypes), np.int64, len(dtypes))
        sizes, offsets = (list(chain.from_iterable(lists)) for lists in (shapes, pairs))
        if not (
            set(map(type, shapes)) <= {list}
            and set(map(type, chain(sizes, offsets))) <= {int}
            and set(map(len, pairs)) <= {2}  # so they are lists: nothing else in JSON holds integers
            and max(map(len, shapes), default=0) <= _QUICK_DIMENSIONS
            and min(sizes, default=0) >= 0
        ):
            return None
        elements = np.fromiter(map(prod, shapes), np.int64, len(shapes))
        starts, ends = np.fromiter(offsets, np.int64, len(offsets)).reshape(-1, 2).T
    except (KeyError, TypeError, OverflowError):
        return None
    empty = np.flatnonzero(elements == 0)
    quick = elements.max(initial=0) <= _QUICK_ELEMENTS and all(_elements(shapes[i]) is not None for i in empty)
    wanted = elements * bits
    right = (starts >= 0) & (ends >= starts) & (wanted & 7 == 0) & (wanted >> 3 == ends - starts)
    return _Columns(list(entries), dtypes, shapes, starts, ends) if quick and right.all() else None


def _columns_one_by_one(path: str, entries: dict[str, Any]) -> _Columns:
    """Turn the entries into columns; raise for the first that is not valid."""
    for name, entry in entries.items():
        if fault := _fault(entry):
            raise HeaderError(f"tensor {short(name)}: {fault}", where=path, remedy=AGAIN, tensor=name)
    dtypes, shapes, pairs = ([entry[field] for entry in entries.values()] for field in _FIELDS)
    starts, ends = np.array(pairs, np.int64).reshape(-1, 2).T
    return _Columns(list(entries), dtypes, shapes, starts, ends)


def _fault(entry: Any) -> str | None:
    """Say what is wrong with a tensor's entry, on its own."""
    if type(entry) is not dict:
        return f"its entry is {short(entry)}, not an object with {', '.join(_FIELDS)}"
    missing = [field for field in _FIELDS if field not in entry]
    if missing:
        return f"its entry has no {' and no '.join(missing)}"
    dtype, shape, offsets = (entry[field] for field in _FIELDS)
    if type(dtype) is not str or dtype not in DTYPE_BITS:
        return f"dtype {short(dtype)} is not one of the format's ({', '.join(DTYPE_BITS)})"
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if type(numbers) is not list or not all(type(n) is int and 0 <= n <= _LARGEST for n in numbers):
            return f"{field} {short(numbers)} is not a list of whole numbers from 0 to 2**63 - 1"
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets {short(offsets)} are not a start and an end"
    elements = _elements(shape)
    if elements is None:
        return f"shape {short(shape)} is larger than 2**63 - 1 elements"
    size, odd_bits = divmod(elements * DTYPE_BITS[dtype], 8)
    if odd_bits:
        return f"shape {short(shape)} of {dtype} ({DTYPE_BITS[dtype]} bits each) does not end on a whole byte"
    if size != (held := offsets[1] - offsets[0]):
        return f"shape {short(shape)} of {dtype} takes {size} bytes, but data_offsets {offsets} hold {held}"
    return None


def _elements(shape: Sequence[int]) -> int | None:
    """Count the elements. None if the sizes above zero multiply to more than torch's strides can hold."""
    count = 1
    for size in shape:
        count *= size or 1
        if count > _LARGEST:
            return None
    return 0 if 0 in shape else count


def _in_file_order(path: str, columns: _Columns) -> _Columns:
    """Sort the columns by offset; raise where tensors overlap or leave a gap."""
    if np.array_equal(columns.starts, _ends_before(columns)):
        return columns
    order = np.lexsort((columns.ends, columns.starts))  # stable
    at = order.tolist()
    names, dtypes = ([column[i] for i in at] for column in (columns.names, columns.dtypes))
    columns = _Columns(names, dtypes, [columns.shapes[i] for i in at], columns.starts[order], columns.ends[order])
    before = _ends_before(columns)
    wrong = np.flatnonzero(columns.starts != before)
    if not wrong.size:
        return columns
    i = wrong[0]
    name, start, end = short(names[i]), columns.starts[i], before[i]
    if start > end:
        what = f"bytes {end}-{start} of the data, in front of tensor {name}, belong to no tensor"
    else:
        what = f"tensor {name} starts at byte {start} of the data, tensor {short(names[i - 1])} ends only at {end}"
    raise HeaderError(what, where=path, remedy=AGAIN, tensor=names[i])


def _ends_before(columns: _Columns) -> npt.NDArray[np.int64]:
    """Return where the tensor before each one ends. Each must start there."""
    return np.append(np.int64(0), columns.ends)[:-1]


def _check_size(path: str, size: int, data_start: int, columns: _Columns) -> None:
    promised = data_start + (int(columns.ends[-1]) if columns.names else 0)
    if size < promised:
        raise HeaderError(
            f"is incomplete: {promised - size} bytes are missing (it has {size}, its header describes {promised})",
            where=path,
            remedy="the download or copy was cut short, do it again",
            lead=" ",
            sep=": ",
        )
    if size > promised:
        raise HeaderError(
            f"has {size - promised} bytes more than its header describes ({size}, not {promised}): it was "
            "overwritten in part, or joined with something else",
            where=path,
            remedy="download or copy it again",
            lead=" ",
        )


def _tensors(columns: _Columns, data_start: int) -> tuple[TensorInfo, ...]:
    fields = zip(
        columns.names,
        columns.dtypes,
        map(Shape, columns.shapes),
        (columns.starts + data_start).tolist(),
        (columns.ends + data_start).tolist(),
        repeat(data_start),
        strict=False,
    )
    # TensorInfo._make calls tuple.__new__. Calling it here saves a Python frame for each tensor.
    return tuple(map(tuple.__new__, repeat(TensorInfo), fields))


Opened: TypeAlias = tuple[Source, Header]
