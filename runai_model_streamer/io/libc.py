"""The C library, for system calls that Python lacks, and the kernel's version."""

import ctypes
import functools
import os
import re


@functools.cache
def libc() -> ctypes.PyDLL:
    """Return the C library of this process. It is loaded once, since every `ctypes` library leaks a little.

    `PyDLL` keeps the GIL: these calls take microseconds, less than releasing and retaking it.
    """
    return ctypes.PyDLL(None, use_errno=True)


def kernel_release() -> tuple[int, int]:
    """Return the kernel's major and minor version; zeros if unknown."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
