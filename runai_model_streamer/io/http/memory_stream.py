"""C streams over Python's memory, for a C library to write to."""

import ctypes
from typing import Final

from runai_model_streamer.io.libc import libc

_UNBUFFERED: Final = 2


class MemoryStream:
    """A `FILE *` over memory. A write beyond the end fails.

    The memory stays the caller's, and must outlive the stream. The stream appends no final zero. Any thread may call
    `written` while another one writes.
    """

    def __init__(self, address: int, size: int) -> None:
        """Open a stream over `size` bytes at `address`; `size` is at least 1."""
        self.size = size
        # The C library searches the memory for a zero when it opens it: put one first.
        ctypes.memset(address, 0, 1)
        self.pointer: int | None = _open(address, size, b"r+")
        if not self.pointer:
            raise OSError(ctypes.get_errno(), "fmemopen failed")
        _set_buffer(self.pointer, None, _UNBUFFERED, 0)

    def written(self) -> int:
        """Return how many bytes were written; a write in progress does not count yet."""
        position: int = _tell(self.pointer)
        return position

    def close(self) -> None:
        """Release the memory. Idempotent."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            _close(pointer)


_open: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)(
    ("fmemopen", libc())
)
_set_buffer: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)(
    ("setvbuf", libc())
)
_tell: Final = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(("ftell", libc()))
_close: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("fclose", libc()))
