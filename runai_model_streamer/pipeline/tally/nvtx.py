"""NVTX ranges on a profiler's time line, if a profiler is attached and the nvtx package is installed."""

import contextlib
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

_ATTACHED: Final = "NVTX_INJECTION64_PATH"
"""The variable by which NVTX finds a profiler. Nsight Systems and Nsight Compute set it.

Without a profiler ranges are useless, and the import of nvtx takes 0.1 s.
"""

_NOTHING: Final = contextlib.nullcontext()


P = ParamSpec("P")
R = TypeVar("R")


def nvtx_range(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context that is an NVTX range of this name in the calling thread."""
    annotate = _annotate()
    return _NOTHING if annotate is None else annotate(name)


def in_range(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """Return `function`; with a profiler attached, one that calls it in an NVTX range.

    So without a profiler, which is nearly always, a call that is made for each read costs nothing more.
    """
    if _annotate() is None:
        return function

    @functools.wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        with nvtx_range(name):
            return function(*arguments, **named)

    return called


@functools.cache
def _annotate() -> Callable[[str], contextlib.AbstractContextManager[Any]] | None:
    if _ATTACHED not in os.environ:
        return None
    try:
        nvtx = importlib.import_module("nvtx")
    except ImportError:
        return None
    return lambda name: nvtx.annotate(name, domain="runai_model_streamer")
