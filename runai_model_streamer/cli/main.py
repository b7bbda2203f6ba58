"""The command `runai-streamer`: its exit codes, and what ends it from outside.

Exit codes: 0 it went well; 1 it did not (`error: ...` on stderr says what, and what to do); 2 the arguments cannot be
used; 130 Ctrl-C; 141 whoever read the output has gone (`| head`), as shells say it of a command that SIGPIPE ended.

Nothing that takes time is imported with this module: Ctrl-C would then end in a traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from runai_model_streamer.cli.interrupts import INTERRUPTED, TOLD, ended_by_ctrl_c

PIPE_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or the process's own; returns the exit code.

    Raises:
        SystemExit: 2 for arguments that cannot be used; 0 for --help and --version.
    """
    try:
        with ended_by_ctrl_c():
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
        sys.stderr.write(TOLD)
        return INTERRUPTED
    return code


def _forget_stdout() -> None:
    """Else the interpreter would complain when it flushes what nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
