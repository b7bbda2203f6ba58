"""Describes one tensor, as the header of its file does, and the format's dtypes."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from runai_model_streamer.errors import UnsupportedDtypeError

if TYPE_CHECKING:
    import torch

DTYPE_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        name: bits
        for bits, names in (
            (4, "F4"),
            (6, "F6_E2M3 F6_E3M2"),
            (8, "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ"),
            (16, "I16 U16 F16 BF16"),
            (32, "I32 U32 F32"),
            (64, "C64 F64 I64 U64"),
        )
        for name in names.split()
    }
)
"""Bits of one element, for every dtype of the format (safetensors 0.8)."""

TORCH_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "I16": "int16",
        "U16": "uint16",
        "F16": "float16",
        "BF16": "bfloat16",
        "I32": "int32",
        "U32": "uint32",
        "F32": "float32",
        "I64": "int64",
        "U64": "uint64",
        "F64": "float64",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "F4": "float4_e2m1fn_x2",
    }
)
"""The format's dtype -> torch's name for it. Older releases of torch lack some of these."""


def torch_dtype(dtype: str) -> "torch.dtype | None":
    """Return the installed torch's dtype for one of the format's; None if it has none."""
    import torch

    return getattr(torch, TORCH_NAMES.get(dtype, ""), None)


class Shape(tuple[int, ...]):
    """A tensor's shape: a tuple, also equal to a list of the same sizes, since the original streamer has lists."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return tuple.__ne__(self, tuple(other) if isinstance(other, list) else other)

    __hash__ = tuple.__hash__


class Offsets(NamedTuple):
    """The range of a tensor, in bytes from the start of the data section; half-open."""

    start: int
    end: int

    def get_diff(self) -> int:
        """Return the number of bytes."""
        return self.end - self.start


class TensorInfo(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str
    """The format's name of the dtype, a key of `DTYPE_BITS`."""
    shape: tuple[int, ...]
    """Sizes in elements, also for dtypes of less than a byte."""
    start: int
    """Offset in the file of the tensor's first byte."""
    end: int
    """Offset in the file after the tensor's last byte."""
    data_start: int
    """Offset in the file of the data section."""

    @property
    def offsets(self) -> Offsets:
        """`start` and `end` as in the header: from the start of the data section."""
        return Offsets(self.start - self.data_start, self.end - self.data_start)

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.end - self.start

    # These methods are those of the original's metadata.

    def get_bytesize(self) -> int:
        """Return `nbytes`."""
        return self.nbytes

    def get_item_count(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    def get_element_size(self) -> int:
        """Return the bytes of one element of `get_torch_dtype`. Raises as that does."""
        return self.get_torch_dtype().itemsize

    def get_torch_dtype(self) -> "torch.dtype":
        """Return torch's dtype.

        Raises:
            UnsupportedDtypeError: the installed torch has no such dtype.
        """
        found = torch_dtype(self.dtype)
        if found is None:
            raise UnsupportedDtypeError(
                f"tensor {self.name!r} has dtype {self.dtype}, which the installed torch cannot hold",
                remedy="leave it out with tensor_names, or use a torch that has it",
            )
        return found


_START: Final[Callable[[TensorInfo], int]] = attrgetter("start")
_END: Final[Callable[[TensorInfo], int]] = attrgetter("end")


def nbytes_of(tensors: Sequence[TensorInfo]) -> int:
    """Return the number of bytes of all tensors, without a Python frame for each."""
    return sum(map(_END, tensors)) - sum(map(_START, tensors))
