"""One tensor, as the header of its file describes it; the format's dtypes."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

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


class Offsets(NamedTuple):
    """Where a tensor's bytes lie, in bytes from the start of the data section, half-open."""

    start: int
    end: int

    def get_diff(self) -> int:
        """Number of bytes."""
        return self.end - self.start


class TensorInfo(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str
    """The format's name of it, a key of `DTYPE_BITS`."""
    shape: tuple[int, ...]
    """In elements, for dtypes of less than a byte too."""
    start: int
    """Byte in the file where the tensor starts."""
    end: int
    """Byte in the file behind the tensor's last."""
    data_start: int
    """Byte in the file where the data section starts."""

    @property
    def offsets(self) -> Offsets:
        """`start` and `end` as the header has them: from the start of the data section."""
        return Offsets(self.start - self.data_start, self.end - self.data_start)

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.end - self.start


_START: Final[Callable[[TensorInfo], int]] = attrgetter("start")
_END: Final[Callable[[TensorInfo], int]] = attrgetter("end")


def nbytes_of(tensors: Sequence[TensorInfo]) -> int:
    """Number of bytes of them all, without a Python frame for each."""
    return sum(map(_END, tensors)) - sum(map(_START, tensors))
