"""Casts on a CUDA device: numba-cuda kernels, queued on a stream given by its handle. Same results as `host`.

A kernel reads single bytes, since the source may start anywhere and a GPU faults on a wider load that is not aligned.
Device memory is many times faster than the bus that brings the bytes, so this costs no visible time.

The caller makes the device's primary context current in its thread (`cuCtxPushCurrent`, torch). It keeps the memory
until the queued kernel has run.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

import numba_cuda
import numpy as np
from numba import cuda, types

from runai_model_streamer.kernels import bits
from runai_model_streamer.kernels.compiling import compile_kernel, specialise

THREADS: Final = 256
BLOCKS: Final = 1024
"""Enough to fill any GPU. Each thread steps through the elements by the size of the whole grid."""

_UNSIGNED: Final[dict[int, Any]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_TYPES: Final[dict[int, Any]] = {1: types.uint8, 2: types.uint16, 4: types.uint32}

_compiling = threading.Lock()


def cast(source: str, target: str) -> Callable[[int, int, int, int], None]:
    """Return `queue(source, target, count, stream)`, which queues a cast from `source` to `target` elements.

    `queue` takes the device addresses of both first bytes, the number of elements, and the stream's handle. The
    target's address is a multiple of its element's size. The source's may be any.

    The kernel is compiled in some seconds, or read from disk, and loaded onto the current device.

    Args:
        source: a key of `bits.ITEM_SIZES`.
        target: one of `bits.TARGETS`, and not `source`.
    """
    with _compiling:
        kernel = _compiled_cast(source, target, cuda.get_current_device().compute_capability)
    return functools.partial(_queue_cast, kernel, bits.ITEM_SIZES[source], bits.ITEM_SIZES[target])


def _queue_cast(kernel: Any, width: int, wide: int, source: int, target: int, count: int, stream: int) -> None:
    if count < 0:
        raise ValueError(f"{count} elements: cannot be negative")
    if target % wide:
        raise ValueError(f"the target's address {target:#x} is not a multiple of the {wide} bytes of an element")
    if not count:
        return
    elements, made = _Memory(source, "|u1", count * width), _Memory(target, f"<u{wide}", count)
    kernel[BLOCKS, THREADS, cuda.external_stream(stream)](_array(elements), _array(made))


class _Memory:
    """Device memory that the caller owns, in the form that numba takes."""

    def __init__(self, address: int, kind: str, count: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (count,),
            "typestr": kind,
            "version": 3,
            # Nothing to wait for: the caller orders the streams.
            "stream": None,
        }


def _array(memory: _Memory) -> Any:
    return cuda.as_cuda_array(memory, sync=False)


def cast_template(source: str, target: str) -> tuple[Any, Any]:
    """Return the kernel as a function that numba-cuda takes, and its signature."""
    width, wide = bits.ITEM_SIZES[source], bits.ITEM_SIZES[target]
    kernel = specialise(
        _cast,
        f"cast_{source}_{target}",
        (numba_cuda.__version__,),
        WIDTH=width,
        TO=_UNSIGNED[wide],
        widen=_inlined(bits.WIDEN[source]),
        narrow=_inlined(bits.narrowing(source, target)),
    )
    return kernel, types.void(types.uint8[::1], _TYPES[wide][::1])


def _inlined(convert: bits.Convert) -> Any:
    # Inlined into numba's form of the kernel. A call would be compiled for the current device, and fail without one.
    return cuda.jit(device=True, inline="always")(convert)


@functools.cache
def _compiled_cast(source: str, target: str, capability: tuple[int, int]) -> Any:  # noqa: ARG001 - of the cache's key
    kernel, signature = cast_template(source, target)
    return compile_kernel(functools.partial(_jit, signature), kernel)


def _jit(signature: Any, cache: bool) -> Any:
    return cuda.jit(signature, cache=cache)


# The template, and the names that `specialise` replaces in it.
WIDTH = 4
TO = np.uint32
widen = narrow = bits.keep


def _cast(source: Any, target: Any) -> None:
    for i in range(cuda.grid(1), target.size, cuda.gridsize(1)):
        x = np.uint32(0)
        for k in range(WIDTH):
            x = np.uint32(x | np.uint32(np.uint32(source[i * WIDTH + k]) << np.uint32(8 * k)))
        target[i] = TO(narrow(widen(x)))
