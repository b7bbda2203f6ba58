"""Ctrl-C while packages are imported that take seconds."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""The command's exit code."""

TOLD: Final = "interrupted\n"


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """While torch is imported, Ctrl-C ends the process: an exception may be lost there, or turned into an ImportError.

    Nothing has begun yet that would have to be brought to an end. Where it is ignored, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(_signal: int, _frame: FrameType | None) -> None:
    # Not sys.stderr, which may be at work right now.
    with contextlib.suppress(OSError):
        os.write(2, TOLD.encode())
    os._exit(INTERRUPTED)
