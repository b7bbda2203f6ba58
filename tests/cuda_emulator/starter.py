"""Starts tests in processes of their own that need not import torch and pytest again: they are forked off one that has.

    python -m tests.cuda_emulator.starter       # takes tasks on its standard input; `Starter` is the other side

Nothing of ours and no package of the GPU is imported before the fork (torch's CUDA build is, and initialises nothing),
and no thread is started but by numpy, whose BLAS knows what a fork is.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_AT_START: Final = ("LD_", "PYTHON", "PYTORCH_", "MALLOC_", "GLIBC_", "OMP_", "MKL_", "OPENBLAS_")


def at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Those variables that are read when a process starts or imports torch: a fork is too late for them."""
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}


class Starter:
    """A process that forks, with these variables and in this folder."""

    def __init__(self, environment: Mapping[str, str], cwd: Path) -> None:
        command = [sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=pipe, stdout=pipe, text=True)

    def run_pytest(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: Path, seconds: float
    ) -> int | None:
        """The exit status of pytest in a new process, negative for a signal; None if it took longer and was killed.

        environment: all of its variables; those of `at_start` are the starter's. output: the file for what it prints.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = {"arguments": arguments, "environment": dict(environment), "output": str(output), "seconds": seconds}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"what starts emulated tests has ended, with exit status {self._process.wait()}")
        status: int | None = json.loads(line)
        return status

    def close(self) -> None:
        self._process.communicate()


def _serve() -> int:
    """Fork for each task and tell the exit status; returns what the process is to end with, in a child too."""
    import botocore.session  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    from tests.cuda_emulator.testing import torch_is_emulated

    if torch_is_emulated():
        from tests.cuda_emulator import torch_operators

        torch_operators.install()
    # Not to be looked through again in each child.
    gc.freeze()
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            return _run(task)
        ended = os.pidfd_open(child)
        late = not select.select([ended], [], [], task["seconds"])[0]
        if late:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(ended)
        print(json.dumps(None if late else status), flush=True)
    return 0


def _run(task: dict[str, Any]) -> int:
    import pytest

    for path, flags, number in ((os.devnull, os.O_RDONLY, 0), (task["output"], os.O_WRONLY | os.O_CREAT, 1)):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(task["environment"])
    return int(pytest.main(task["arguments"]))


if __name__ == "__main__":
    sys.exit(_serve())
