"""Ranges that a profiler shows on its time line, where the nvtx package is installed."""

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

_NOTHING: Final = contextlib.nullcontext()


def nvtx_range(name: str) -> contextlib.AbstractContextManager[Any]:
    """A range of this name, from entering to leaving it, in the calling thread."""
    return _annotate()(name)


@functools.cache
def _annotate() -> Callable[[str], contextlib.AbstractContextManager[Any]]:
    try:
        nvtx = importlib.import_module("nvtx")
    except ImportError:
        return lambda _: _NOTHING
    return lambda name: nvtx.annotate(name, domain="runai_model_streamer")
