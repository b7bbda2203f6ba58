"""The command `runai-streamer`: its exit codes, Ctrl-C and closed pipes.

Exit codes: 0 success; 1 failure (`error: ...` on stderr says what failed and what to do); 2 unusable arguments; 130
Ctrl-C; 141 the reader of the output has closed it (`| head`), the code that shells give for SIGPIPE.

This module imports nothing slow at its top: a Ctrl-C there would print a traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from runai_model_streamer.cli.interrupts import INTERRUPTED, TOLD, ended_by_ctrl_c

PIPE_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or else the process's. Return the exit code.

    Raises:
        SystemExit: 2 for unusable arguments; 0 for --help and --version.
    """
    try:
        with ended_by_ctrl_c():
            from runai_model_streamer.cli.commands import run
            from runai_model_streamer.cli.output import prepare_stdout
        prepare_stdout()
        code = run(argv)
        # Flush now, while an error can still be handled.
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write(TOLD)
        return INTERRUPTED
    return code


def _forget_stdout() -> None:
    """Redirect stdout to /dev/null, or the interpreter would print an error when it flushes the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
