"""The clocks that time a load, and what the kernel says of its threads. A test hands in its own."""

import time
from typing import Final, Protocol

from runai_model_streamer.threads.times import ThreadTimes, times_of


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
    thread_times = staticmethod(times_of)


SYSTEM: Final = SystemTimer()
