"""Makes the end of the process wait for a reader thread inside torch's allocators, or inside a cast of torch's.

Torch releases the GIL while CUDA allocates memory or launches a kernel. Readers are daemon threads: after Python has
ended, it ends any thread that takes the GIL again. Unwinding torch's frames then aborts the process with SIGABRT
(Python 3.11 to 3.13; pytorch/pytorch#38228). So the end of the process waits for the thread that is inside, and lets no
other in.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator

from runai_model_streamer.errors import StreamerError


class Gate:
    """A section that one thread at a time may enter, until it is closed for good."""

    def __init__(self) -> None:
        self._inside = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Stay inside for the duration of the context.

        Raises:
            StreamerError: the process is ending.
        """
        with self._inside:
            if self._closed:
                raise StreamerError("no memory can be allocated: the process is ending")
            yield

    def close(self) -> None:
        """Wait for the thread that is inside, and let no other in."""
        with self._inside:
            self._closed = True

    def reopen(self) -> None:
        """Open the gate in a forked child, which does not have the thread that was inside."""
        self._inside = threading.Lock()


_gate = Gate()
allocating = _gate.entered

# Another one: with the same, casts would wait for allocations, which take CUDA milliseconds.
_casts = Gate()
casting = _casts.entered

for _each in (_gate, _casts):
    atexit.register(_each.close)
    os.register_at_fork(after_in_child=_each.reopen)
