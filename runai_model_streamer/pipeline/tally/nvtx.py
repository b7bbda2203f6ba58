"""NVTX ranges on a profiler's time line, if a profiler is attached and the nvtx package is installed."""

import contextlib
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, Final

_ATTACHED: Final = "NVTX_INJECTION64_PATH"
"""The variable by which NVTX finds a profiler. Nsight Systems and Nsight Compute set it.

Without a profiler ranges are useless, and the import of nvtx takes 0.1 s.
"""

_NOTHING: Final = contextlib.nullcontext()


def nvtx_range(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context that is an NVTX range of this name in the calling thread."""
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
