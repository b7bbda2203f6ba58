"""Values worth casting."""

import functools

import numpy as np
import numpy.typing as npt

from tests.kernels import oracle


@functools.cache
def all_values(dtype: str) -> npt.NDArray[np.uint8]:
    """Bytes of every value of a dtype; of float32, those at every edge, and four million others."""
    if dtype != "F32":
        width = oracle.WIDTHS[dtype]
        made = np.arange(1 << 8 * width, dtype=np.uint32).astype(np.uint8 if width == 1 else np.uint16)
        return np.frombuffer(made.tobytes(), np.uint8)
    return np.frombuffer(np.concatenate([edges(), _random()]).tobytes(), np.uint8)


def edges() -> npt.NDArray[np.uint32]:
    """Bits of float32 numbers around everything that rounds, overflows, vanishes or is no number."""
    exponents = np.arange(256, dtype=np.uint32) << 23
    # The mantissas at which bfloat16 (16 bits fewer) and float16 (13 fewer) round, ties among them, odd and even.
    mantissas = {0, 1, 2, 0x7FFFFF, 0x7FFFFE, 0x400000, 0x3FFFFF, 0x400001, 0x2AAAAA, 0x555555}
    for dropped in (13, 16):
        unit, half = 1 << dropped, 1 << (dropped - 1)
        for multiple in (0, 1, 2, 3, (1 << 23 - dropped) - 2, (1 << 23 - dropped) - 1):
            mantissas |= {multiple * unit + half + near & 0x7FFFFF for near in (-half, -1, 0, 1)}
    # Subnormal in float16: more bits go, as many as the number is small.
    for dropped in range(14, 24):
        half = 1 << (dropped - 1)
        for multiple in (0, 1, 2, 3):
            mantissas |= {(multiple << dropped) + half + near & 0x7FFFFF for near in (-1, 0, 1)}
    positive = (exponents[:, None] | np.array(sorted(mantissas), np.uint32)[None, :]).reshape(-1)
    return np.concatenate([positive, positive | np.uint32(0x80000000)])


def _random() -> npt.NDArray[np.uint32]:
    generator = np.random.default_rng(7)
    anything = generator.integers(0, 1 << 32, 3 << 20, np.uint32)
    # Where float16 has values: a small part of what float32 can hold.
    exponents = generator.integers(100, 145, 1 << 20, np.uint32) << 23
    small = anything[: 1 << 20] & np.uint32(0x807FFFFF) | exponents
    return np.concatenate([anything, small])
