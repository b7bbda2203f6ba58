"""The C library, for the few system calls that Python does not have."""

import ctypes
import functools


@functools.cache
def libc() -> ctypes.PyDLL:
    """The C library of this process; made once, since each `ctypes` library leaves something behind.

    `PyDLL` keeps the GIL: what is called here takes microseconds, less than giving it away and getting it back.
    """
    return ctypes.PyDLL(None, use_errno=True)
