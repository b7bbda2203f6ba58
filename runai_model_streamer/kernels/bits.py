"""Casts one element between floating-point formats, in integer arithmetic, for the host and plain Python.

The arithmetic uses integers only. The CPU's own conversions depend on the thread's floating-point state, and threads
inherit `torch.set_flush_denormal`. No CPU, and neither compiler, has an instruction for each format. Every cast goes
through float32, which holds each value of the narrower formats.

Rounding is to nearest, ties to even. Values that are too large become infinite. NaNs become what torch 2.13 makes of
them in its vectorised loops on x86-64 with AVX2 or AVX512; each function says what. Torch itself differs where it does
not vectorise: the last few elements of float16 to float32 become 0x7fffffff, and a strided float32 to bfloat16 gives
0x7fc0.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

Convert: TypeAlias = Callable[[np.uint32], np.uint32]

_U = np.uint32


def widen_bfloat16(x: np.uint32) -> np.uint32:
    """Bits of a bfloat16 -> bits of the float32 of the same value; a NaN keeps its bits."""
    return _U(x << _U(16))


def widen_float16(x: np.uint32) -> np.uint32:
    """Bits of a float16 -> bits of the float32 of the same value; a NaN keeps sign and payload, and is quiet."""
    a = _U(x & _U(0x7FFF))
    # Subnormal: shift the leading one to where a normal number has its hidden one, and count the shifts.
    m, exponent = a, _U(113)
    low = m < _U(0x8)
    m = _U(m << _U(8)) if low else m
    exponent = _U(exponent - _U(8)) if low else exponent
    low = m < _U(0x80)
    m = _U(m << _U(4)) if low else m
    exponent = _U(exponent - _U(4)) if low else exponent
    low = m < _U(0x200)
    m = _U(m << _U(2)) if low else m
    exponent = _U(exponent - _U(2)) if low else exponent
    low = m < _U(0x400)
    m = _U(m << _U(1)) if low else m
    exponent = _U(exponent - _U(1)) if low else exponent
    small = _U(_U(exponent << _U(23)) | _U(_U(m & _U(0x3FF)) << _U(13)))
    small = small if a > _U(0) else _U(0)
    wide = _U(_U(a << _U(13)) + _U(0x38000000))
    wide = small if a < _U(0x400) else wide
    special = _U(_U(a << _U(13)) | _U(0x7F800000))
    special = _U(special | _U(0x400000)) if a > _U(0x7C00) else special
    wide = special if a >= _U(0x7C00) else wide
    return _U(wide | _U(_U(x & _U(0x8000)) << _U(16)))


def widen_float8_e4m3fn(x: np.uint32) -> np.uint32:
    """Bits of a float8_e4m3fn -> bits of the float32 of the same value; 0x7f and 0xff become 0x7ff00000, with sign."""
    a = _U(x & _U(0x7F))
    m, exponent = a, _U(120)
    low = m < _U(2)
    m = _U(m << _U(2)) if low else m
    exponent = _U(exponent - _U(2)) if low else exponent
    low = m < _U(4)
    m = _U(m << _U(1)) if low else m
    exponent = _U(exponent - _U(1)) if low else exponent
    small = _U(_U(exponent << _U(23)) | _U(_U(m & _U(3)) << _U(21)))
    small = small if a > _U(0) else _U(0)
    wide = _U(_U(a << _U(20)) + _U(0x3C000000))
    wide = small if a < _U(8) else wide
    wide = _U(0x7FF00000) if a == _U(0x7F) else wide
    return _U(wide | _U(_U(x & _U(0x80)) << _U(24)))


def keep(x: np.uint32) -> np.uint32:
    """Bits of a float32, as they are."""
    return x


def narrow_float16(x: np.uint32) -> np.uint32:
    """Bits of a float32 -> bits of the nearest float16; a NaN keeps its sign and upper payload, and is quiet."""
    a = _U(x & _U(0x7FFFFFFF))
    odd = _U(_U(a >> _U(13)) & _U(1))
    near = _U(_U(_U(a - _U(0x38000000)) + _U(_U(0xFFF) + odd)) >> _U(13))
    # Subnormal: float16's unit is 2**-24, the mantissa's is 2**(exponent - 150). A shift of 31 or more leaves zero.
    exponent = min(max(_U(a >> _U(23)), _U(95)), _U(112))
    shift = _U(_U(126) - exponent)
    mantissa = _U(_U(a & _U(0x7FFFFF)) | _U(0x800000))
    half = _U(_U(_U(1) << _U(shift - _U(1))) - _U(1))
    odd = _U(_U(mantissa >> shift) & _U(1))
    small = _U(_U(_U(mantissa + half) + odd) >> shift)
    near = small if a < _U(0x38800000) else near
    near = _U(0x7C00) if a >= _U(0x477FF000) else near
    quiet = _U(_U(0x7E00) | _U(_U(a >> _U(13)) & _U(0x3FF)))
    near = quiet if a > _U(0x7F800000) else near
    return _U(near | _U(_U(x >> _U(16)) & _U(0x8000)))


def narrow_bfloat16(x: np.uint32) -> np.uint32:
    """Bits of a float32 -> bits of the nearest bfloat16; every NaN becomes 0xffff."""
    odd = _U(_U(x >> _U(16)) & _U(1))
    near = _U(_U(x + _U(_U(0x7FFF) + odd)) >> _U(16))
    return _U(0xFFFF) if _U(x & _U(0x7FFFFFFF)) > _U(0x7F800000) else near


def narrow_to_bfloat16(x: np.uint32) -> np.uint32:
    """As `narrow_bfloat16`, for values widened from a smaller format: every NaN becomes 0x7fc0."""
    odd = _U(_U(x >> _U(16)) & _U(1))
    near = _U(_U(x + _U(_U(0x7FFF) + odd)) >> _U(16))
    return _U(0x7FC0) if _U(x & _U(0x7FFFFFFF)) > _U(0x7F800000) else near


ITEM_SIZES: Final = {"F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
"""Dtypes that can be cast, by their names in the safetensors format -> bytes of an element."""

TARGETS: Final = ("BF16", "F16", "F32")
"""Dtypes that a cast can result in."""

WIDEN: Final[dict[str, Convert]] = {
    "F8_E4M3": widen_float8_e4m3fn,
    "BF16": widen_bfloat16,
    "F16": widen_float16,
    "F32": keep,
}


def narrowing(source: str, target: str) -> Convert:
    """Return the function from float32's bits to `target`'s, for elements that were `source` in the file."""
    if target == "F32":
        return keep
    if target == "F16":
        return narrow_float16
    return narrow_bfloat16 if source == "F32" else narrow_to_bfloat16
