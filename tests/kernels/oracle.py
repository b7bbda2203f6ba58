"""What the kernels are to do, written for NumPy by arithmetic rather than by bits: the one measure of all of them."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

WIDTHS: Final = {"F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
PAIRS: Final = [(source, target) for source in WIDTHS for target in ("BF16", "F16", "F32") if source != target]

# Bits of the exponent and of the mantissa, the exponent's bias, and whether its highest value means inf or NaN.
_FORMATS: Final = {"F8_E4M3": (4, 3, 7, False), "BF16": (8, 7, 127, True), "F16": (5, 10, 15, True)}
_UNSIGNED: Final[dict[int, Any]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}

Bits = npt.NDArray[Any]
"""Unsigned integers."""


def cast(data: npt.NDArray[np.uint8], source: str, target: str) -> npt.NDArray[np.uint8]:
    """Bytes of `source` elements as bytes of `target` elements."""
    bits = np.frombuffer(data.tobytes(), _UNSIGNED[WIDTHS[source]]).astype(np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and signalling NaNs are ordinary here
        values = bits.view(np.float32).astype(np.float64) if source == "F32" else _values(bits, *_FORMATS[source])
        narrow = _nearest_bfloat16(values) if target == "BF16" else _rounded(values, target)
    nan = np.isnan(values)
    narrow[nan] = _nan(bits[nan], source, target)
    return np.frombuffer(narrow.astype(_UNSIGNED[WIDTHS[target]]).tobytes(), np.uint8)


def _values(bits: Bits, exponent_bits: int, mantissa_bits: int, bias: int, ieee: bool) -> npt.NDArray[np.float64]:
    sign = np.where(bits >> (exponent_bits + mantissa_bits) & 1, -1.0, 1.0)
    top = (1 << exponent_bits) - 1
    exponent = (bits >> mantissa_bits & top).astype(np.int64)
    mantissa = (bits & (1 << mantissa_bits) - 1).astype(np.float64) / (1 << mantissa_bits)
    value = np.where(
        exponent == 0, np.ldexp(mantissa, 1 - bias), np.ldexp(1 + mantissa, np.where(exponent, exponent - bias, 0))
    )
    if ieee:
        value = np.where(exponent == top, np.where(mantissa == 0, np.inf, np.nan), value)
    else:
        value = np.where(bits & 0x7F == 0x7F, np.nan, value)
    return sign * value


def _rounded(values: npt.NDArray[np.float64], target: str) -> Bits:
    if target == "F32":
        return values.astype(np.float32).view(np.uint32).copy()
    return values.astype(np.float16).view(np.uint16).astype(np.uint32)


def _nearest_bfloat16(values: npt.NDArray[np.float64]) -> Bits:
    """By search among all of them: the nearest, of two equally near the even one."""
    ladder = _values(np.arange(0x7F80, dtype=np.uint32), *_FORMATS["BF16"])
    magnitude = np.abs(np.where(np.isnan(values), 0, values))
    # What would be the next one: from the middle on, it is infinity.
    ladder = np.append(ladder, 2.0**128)
    upper = np.clip(np.searchsorted(ladder, np.minimum(magnitude, 2.0**128)), 1, len(ladder) - 1)
    below, above = magnitude - ladder[upper - 1], ladder[upper] - magnitude
    nearest = np.where((above < below) | ((above == below) & (upper % 2 == 0)), upper, upper - 1)
    nearest = np.where(magnitude >= 2.0**128, 0x7F80, nearest)
    return (nearest | np.where(np.signbit(values), 0x8000, 0)).astype(np.uint32)


def _nan(bits: Bits, source: str, target: str) -> Bits:
    """torch 2.13's choice, in its vectorised loops on x86-64 with AVX2 or AVX512."""
    if target == "BF16":
        return np.full_like(bits, 0xFFFF if source == "F32" else 0x7FC0)
    width = 8 * WIDTHS[source]
    negative = bits >> (width - 1) & 1
    if source == "F8_E4M3":
        payload = np.full_like(bits, 0x700000)  # of a float32's 23 bits
    else:
        kept = {"BF16": 7, "F16": 10, "F32": 23}[source]
        payload = (bits & (1 << kept) - 1) << (23 - kept)
    if target == "F32":
        quiet = 0x400000 if source == "F16" else 0
        return negative << 31 | 0x7F800000 | quiet | payload
    return negative << 15 | 0x7E00 | payload >> 13
