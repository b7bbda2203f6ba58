"""The C library, for the few system calls that Python does not have, and the kernel's version."""

import ctypes
import functools
import os
import re


@functools.cache
def libc() -> ctypes.PyDLL:
    """The C library of this process; made once, since each `ctypes` library leaves something behind.

    `PyDLL` keeps the GIL: what is called here takes microseconds, less than giving it away and getting it back.
    """
    return ctypes.PyDLL(None, use_errno=True)


def kernel_release() -> tuple[int, int]:
    """The kernel's version and its minor one; zeros where they cannot be told."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
