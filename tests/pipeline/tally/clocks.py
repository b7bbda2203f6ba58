"""Clocks that a test moves."""

from runai_model_streamer.threads.times import ThreadTimes


class Clock:
    """A `Timer` whose time passes when told to; nothing takes a CPU unless a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.process_cpu = 0.0
        self.thread_cpu = 0.0
        self.threads: ThreadTimes | None = ThreadTimes(0.0, 0.0)
        """Of every thread."""

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.thread_cpu

    def process_time(self) -> float:
        return self.process_cpu

    def thread_times(self, _: int) -> ThreadTimes | None:
        return self.threads
