"""Handles Ctrl-C during slow imports."""

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
    """Let Ctrl-C end the process at once while torch is imported, when an exception may be lost or become ImportError.

    Nothing has started yet that needs to be stopped. If the process ignores Ctrl-C, it still does.
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
    # Not `sys.stderr`, which the interrupted code may be using.
    with contextlib.suppress(OSError):
        os.write(2, TOLD.encode())
    os._exit(INTERRUPTED)
