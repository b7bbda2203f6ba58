"""A process that loads once: started, spoken to by lines of JSON, its memory watched from outside."""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks import machine

# Long enough for the slowest loader on a slow disk, short enough to notice one that hangs.
TIMEOUT_S = 600.0
# Reading /proc/PID/status costs 30 microseconds here: 0.3% of one core.
SAMPLE_S = 0.01
SPARE = 512 * machine.MIB


class LoadError(Exception):
    """A worker ended with an error; the message is its last line."""


class Worker:
    """A worker process that has imported its loader and waits for the word to load."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )
        self.selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.peak_anon_kib = 0

    def _sample_memory(self) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak_anon_kib = max(self.peak_anon_kib, int(line.split()[1]))

    def answer(self, *, watch: bool = False) -> dict[str, Any]:
        """The next line that the worker prints; meanwhile its anonymous memory is watched."""
        deadline = time.monotonic() + TIMEOUT_S
        assert self.process.stdout is not None
        while not self.selector.select(SAMPLE_S if watch else 1.0):
            if watch:
                self._sample_memory()
            if time.monotonic() > deadline:
                raise LoadError(f"no answer in {TIMEOUT_S:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            text = self.errors.read().decode(errors="replace").strip().splitlines()
            raise LoadError(text[-1] if text else f"exit status {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.selector.close()
        self.errors.close()
