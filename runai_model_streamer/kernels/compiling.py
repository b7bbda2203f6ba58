"""Makes kernels from templates, compiles them, and caches them on disk where that works.

numba caches compiled code in files named after the function. It checks only the function's own source file. A kernel
here is built from several files, and two processes that compile different kernels under one name could mix them up.
So each kernel's name holds a digest of all that it depends on: files of one name always hold the same code.

The cache is in `__pycache__` next to the kernels, in `NUMBA_CACHE_DIR`, or in the user's cache folder, whichever numba
can write to first.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, Final

_log = logging.getLogger(__name__)

_DIGITS: Final = 16


def specialise(template: Callable[..., None], name: str, made_for: tuple[object, ...], **values: object) -> Any:
    """Copy `template` with other values for some of its global names.

    Args:
        template: a function of a kernel's module, without defaults and closure.
        name: the copy's name; another one for other `values`.
        made_for: what else the compiled code depends on: the compiler's version, the processor.
        values: global name -> what the template finds under it.
    """
    assert isinstance(template, FunctionType)
    made = FunctionType(template.__code__, {**template.__globals__, **values}, name)
    made.__qualname__ = f"{name}_{_digest(made_for)}"
    return made


def compile_kernel(compiler: Callable[..., Callable[[Any], Any]], kernel: Any) -> Any:
    """Compile the kernel, with a cache on disk; without one where that fails for any reason."""
    try:
        return compiler(cache=True)(kernel)
    except Exception as error:  # no folder, a full disk, a damaged file: pickle alone raises many kinds
        _log.debug("%s: compiled without a cache on disk: %s", kernel.__name__, error)
        return compiler(cache=False)(kernel)


def _digest(made_for: tuple[object, ...]) -> str:
    found = hashlib.sha256(repr(made_for).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:_DIGITS]
