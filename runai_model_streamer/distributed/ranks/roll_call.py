"""Waits until all ranks have come to a meeting, and tells which are missing: by torch's store, and by processes."""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

CHECK_SECONDS: Final = 0.5
"""Seconds of waiting for one rank after which this one looks whether another has ended meanwhile."""

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
        self._processes: dict[int, str] = {}

    def answer(self, said: str) -> None:
        """Say which process this rank is, and something more."""
        self._store.set(f"{self._rank} is", f"{identity()}\n{said}")

    def answers(self, seconds: float) -> dict[int, str]:
        """Wait until all ranks have answered. Return what each other rank said.

        Raises:
            RuntimeError: one has not come in time, or one that came has ended, or the process that keeps torch's store.
        """
        deadline = time.monotonic() + seconds
        said = {}
        for rank in self._others:
            while not self._store.check([f"{rank} is"]):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"rank {rank} did not come within {seconds:g} s")
                with suppress(RuntimeError):  # it has not come yet
                    self._store.wait([f"{rank} is"], timedelta(seconds=CHECK_SECONDS))
                self._check_processes()
            said[rank] = self._answer_of(rank)
        self._check_processes()
        return said

    def _answer_of(self, rank: int) -> str:
        self._processes[rank], said = self._store.get(f"{rank} is").decode().split("\n", 1)
        return str(said)

    def _check_processes(self) -> None:
        for rank in self._ended(self._others):
            raise RuntimeError(f"the process of rank {rank} has ended")

    def _ended(self, ranks: Iterable[int]) -> tuple[int, ...]:
        """Return those whose process has ended, of the ranks whose answer this one has."""
        return tuple(rank for rank in ranks if rank in self._processes and has_ended(self._processes[rank]))

    def absent(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """Give up, and return those of `ranks` at fault: whose process has ended, else who do not give up, too.

        Return none if that is unknown, because the process that keeps torch's store has ended.
        """
        left = [rank for rank in ranks if rank != self._rank]
        deadline = time.monotonic() + GIVING_UP_SECONDS
        try:
            self._store.set(f"{self._rank} gave up", "")
            while left and time.monotonic() < deadline:
                ended = [rank for rank in left if self._has_ended(rank)]
                left = [rank for rank in left if not self._gave_up(rank)]  # afterwards: a rank may give up, and end
                at_fault = tuple(rank for rank in ended if rank in left)
                if at_fault:
                    return at_fault
                time.sleep(0.05)
        except RuntimeError:
            return self._ended(left)
        return tuple(left)

    def has_given_up(self, rank: int) -> bool:
        """Return whether a rank that has gone gave up before, so that another is at fault. Wait until that is known."""
        deadline = time.monotonic() + GIVING_UP_SECONDS
        with suppress(RuntimeError):
            while time.monotonic() < deadline:
                ended = self._has_ended(rank)
                if self._gave_up(rank):
                    return True
                if ended:
                    break
                time.sleep(0.05)
        return False

    def _gave_up(self, rank: int) -> bool:
        return bool(self._store.check([f"{rank} gave up"]))

    def _has_ended(self, rank: int) -> bool:
        if rank not in self._processes and self._store.check([f"{rank} is"]):
            self._answer_of(rank)
        return bool(self._ended([rank]))


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
