"""C streams over memory of ours, into which a C library writes by itself."""

import ctypes
from typing import Final

from runai_model_streamer.io.libc import libc

_UNBUFFERED: Final = 2


class MemoryStream:
    """A `FILE *` over some memory: what is written beyond its end is refused.

    The memory stays the caller's, and has to outlive the stream. Nothing is written but what comes: no final zero.
    May be asked from any thread while another one writes.
    """

    def __init__(self, address: int, size: int) -> None:
        """`size` bytes from `address` on; at least one."""
        self.size = size
        # The C library looks for a zero in memory that it opens: here it finds one at once.
        ctypes.memset(address, 0, 1)
        self.pointer: int | None = _open(address, size, b"r+")
        if not self.pointer:
            raise OSError(ctypes.get_errno(), "no stream over memory")
        _set_buffer(self.pointer, None, _UNBUFFERED, 0)

    def written(self) -> int:
        """Bytes that have come; those of a write in progress do not count yet."""
        position: int = _tell(self.pointer)
        return position

    def close(self) -> None:
        """Let go of the memory. Idempotent."""
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
