"""Calls of torch's allocators in reader threads, which the end of the process waits for.

Torch lets go of the GIL while CUDA allocates memory. Readers are daemon threads: once Python has ended, it ends a
thread that asks for the GIL again, and unwinding torch's frames then ends the process by SIGABRT (Python 3.11 to 3.13;
pytorch/pytorch#38228). So the end of the process waits for the thread that is inside, and lets no other in.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator

from runai_model_streamer.errors import StreamerError


class Gate:
    """What one thread at a time is inside of, until it is closed for good."""

    def __init__(self) -> None:
        self._inside = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for a while.

        Raises:
            StreamerError: the process is ending.
        """
        with self._inside:
            if self._closed:
                raise StreamerError("no memory is allocated any more: the process is ending")
            yield

    def close(self) -> None:
        """Wait for the thread that is inside; let no other in."""
        with self._inside:
            self._closed = True

    def reopen(self) -> None:
        """In a forked child, where the thread that was inside is not."""
        self._inside = threading.Lock()


_gate = Gate()
allocating = _gate.entered

atexit.register(_gate.close)
os.register_at_fork(after_in_child=_gate.reopen)
