"""Tensors to be cast, and what torch makes of them: for tests of casting, on the host and on a device."""

from collections.abc import Sequence
from typing import Final

import torch

from tests.checkpoints import Stored, raw

FLOATS: Final = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
OTHERS: Final = {
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E5M2": torch.float8_e5m2,
}
TARGETS: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def finite(dtype: str, shape: Sequence[int], seed: int = 0) -> Stored:
    """A tensor of ordinary numbers: what NaNs become is the kernels' business."""
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(FLOATS[dtype])
    return Stored(dtype, tuple(shape), raw(values))


def expected(tensor: Stored, target: torch.dtype) -> torch.Tensor:
    dtype = (FLOATS | OTHERS)[tensor.dtype]
    if not tensor.data:
        found = torch.empty(tensor.shape, dtype=dtype)
    else:
        found = torch.frombuffer(bytearray(tensor.data), dtype=torch.uint8).view(dtype).view(tensor.shape)
    return found.to(target) if tensor.dtype in FLOATS else found
