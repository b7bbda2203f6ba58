"""Kernels made from templates, compiled, and kept on disk where that can be done.

numba keeps what it compiles in files named after the function, and trusts them by the function's own source file
alone. A kernel here is put together from several files, and processes that compile different kernels into files of
one name at once can end with one kernel's code under another's key. So each kernel's name holds a digest of all that
it is made of and made for: files of one name then always hold the same code.

They lie in `__pycache__` beside the kernels, in `NUMBA_CACHE_DIR`, or in the user's cache folder, whichever numba can
write to first.
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
    """A copy of `template` in which each global name of `values` means that value.

    Args:
        template: a function of a kernel's module, without defaults and closure.
        name: of the copy, unlike that of any other with other `values`.
        made_for: what else the compiled code depends on: the compiler's version, the processor.
        values: what the template calls or reads.
    """
    assert isinstance(template, FunctionType)
    made = FunctionType(template.__code__, {**template.__globals__, **values}, name)
    made.__qualname__ = f"{name}_{_digest(made_for)}"
    return made


def compile_kernel(compiler: Callable[..., Callable[[Any], Any]], kernel: Any) -> Any:
    """`compiler(cache=True)(kernel)`; without the cache on disk where that fails, for whatever reason."""
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
