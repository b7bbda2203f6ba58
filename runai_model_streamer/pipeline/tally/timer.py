"""The clocks that time a load, and what the kernel says of its threads. A test hands in its own."""

import time
from typing import Final, NamedTuple, Protocol


class ThreadTimes(NamedTuple):
    """One thread's times from the kernel, in seconds."""

    cpu: float
    delay: float | None
    """Time ready to run, but without a CPU; None: the kernel does not report it."""


class Timer(Protocol):
    """The clocks that time a load. Each counts seconds from an arbitrary moment."""

    def perf_counter(self) -> float:
        """Wall-clock time."""
        ...

    def thread_time(self) -> float:
        """CPU time of this thread."""
        ...

    def process_time(self) -> float:
        """CPU time of this process."""
        ...

    def thread_times(self, thread: int) -> ThreadTimes | None:
        """Times of this process's thread with this native id; None if it has ended or the kernel has none."""
        ...


class SystemTimer:
    """The system's clocks."""

    perf_counter = staticmethod(time.perf_counter)
    thread_time = staticmethod(time.thread_time)
    process_time = staticmethod(time.process_time)

    def thread_times(self, thread: int) -> ThreadTimes | None:
        """Return the times of this process's thread with this native id; None if it has ended or none are known."""
        try:
            with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
                cpu, delay, _ = file.read().split()
        except (OSError, ValueError):
            return None
        return ThreadTimes(int(cpu) / 1e9, int(delay) / 1e9)


SYSTEM: Final = SystemTimer()
