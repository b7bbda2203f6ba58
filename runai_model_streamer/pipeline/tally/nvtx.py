"""Ranges that a profiler shows on its time line: where one is attached, and the nvtx package is installed."""

import contextlib
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, Final

_ATTACHED: Final = "NVTX_INJECTION64_PATH"
"""What NVTX itself looks for a profiler by, once in a process; Nsight Systems and Compute set it.

Without one, ranges would go nowhere, and importing nvtx takes a tenth of a second.
"""

_NOTHING: Final = contextlib.nullcontext()


def nvtx_range(name: str) -> contextlib.AbstractContextManager[Any]:
    """A range of this name, from entering to leaving it, in the calling thread."""
    return _annotate()(name)


@functools.cache
def _annotate() -> Callable[[str], contextlib.AbstractContextManager[Any]]:
    if _ATTACHED not in os.environ:
        return lambda _: _NOTHING
    try:
        nvtx = importlib.import_module("nvtx")
    except ImportError:
        return lambda _: _NOTHING
    return lambda name: nvtx.annotate(name, domain="runai_model_streamer")
