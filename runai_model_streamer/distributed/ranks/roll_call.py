"""Tells which ranks are missing when a meeting fails: by what they write into torch's store, and by their processes."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

GIVING_UP_SECONDS: Final = 3.0
"""Seconds for the other ranks to notice, too, that not all have come."""

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_START: Final = 19
"""Index of a process's start time in /proc/PID/stat, behind its name. Its state is the first."""


class RollCall:
    """What the ranks of one meeting say of themselves.

    Args:
        store: where they say it; used for nothing else.
        rank: this rank.
        ranks: all of them.
    """

    def __init__(self, store: Any, rank: int, ranks: Sequence[int]) -> None:
        self._store, self._rank = store, rank
        self._others = [each for each in ranks if each != rank]

    def answer(self) -> None:
        """Say which process this rank is."""
        self._store.set(f"{self._rank} is", identity())

    def absent(self) -> tuple[int, ...]:
        """Give up, and return the ranks at fault: those whose process has ended, else those that do not give up, too.

        Return none if that is unknown, because the process that keeps torch's store has ended.
        """
        left = self._others
        deadline = time.monotonic() + GIVING_UP_SECONDS
        try:
            self._store.set(f"{self._rank} gave up", "")
            while left and time.monotonic() < deadline:
                left = [rank for rank in left if not self._gave_up(rank)]
                ended = tuple(rank for rank in left if self._has_ended(rank))
                if ended:
                    return ended
                time.sleep(0.05)
        except RuntimeError:
            return ()
        return tuple(left)

    def has_given_up(self, rank: int) -> bool:
        """Return whether a rank that has gone gave up before, so that another is at fault. Wait until that is known."""
        deadline = time.monotonic() + GIVING_UP_SECONDS
        with suppress(RuntimeError):
            while time.monotonic() < deadline:
                if self._gave_up(rank):
                    return True
                if self._has_ended(rank):
                    break
                time.sleep(0.05)
        return False

    def _gave_up(self, rank: int) -> bool:
        return bool(self._store.check([f"{rank} gave up"]))

    def _has_ended(self, rank: int) -> bool:
        answer = f"{rank} is"
        return bool(self._store.check([answer])) and has_ended(self._store.get(answer).decode())


def identity(process: int | None = None) -> str:
    """Return a text that names a process of this machine, this one by default."""
    process = os.getpid() if process is None else process
    state = _state(process)
    return f"{_processes()} {process} {state[_START] if state else ''}"


def has_ended(name: str) -> bool:
    """Return whether a process that `identity` names has ended. False if this process cannot see it."""
    processes, process, start = name.rsplit(" ", 2)
    if processes != _processes():
        return False
    state = _state(int(process))
    return not state or state[0] in "ZX" or state[_START] != start


def _processes() -> str:
    """Name the processes that this one sees: the machine, and the namespace of their numbers."""
    boot = ""
    with suppress(OSError):
        boot = f"{_BOOT.read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    return boot


def _state(process: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return []
