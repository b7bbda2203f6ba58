"""The command `runai-streamer`: its exit codes, and what ends it from outside.

Exit codes: 0 it went well; 1 it did not (`error: ...` on stderr says what, and what to do); 2 the arguments cannot be
used; 130 Ctrl-C; 141 whoever read the output has gone (`| head`), as shells say it of a command that SIGPIPE ended.

Nothing that takes time is imported with this module: Ctrl-C would then end in a traceback.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_TOLD: Final = "interrupted\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or the process's own; returns the exit code.

    Raises:
        SystemExit: 2 for arguments that cannot be used; 0 for --help and --version.
    """
    try:
        with _ended_by_ctrl_c():
            from runai_model_streamer.cli.commands import run
            from runai_model_streamer.cli.output import prepare_stdout
        prepare_stdout()
        code = run(argv)
        # Now, where it can be told, and not when the interpreter ends.
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write(_TOLD)
        return INTERRUPTED
    return code


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
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
        os.write(2, _TOLD.encode())
    os._exit(INTERRUPTED)


def _forget_stdout() -> None:
    """Else the interpreter would complain when it flushes what nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
