"""What one reader counts and times: sums for each stage of its work, and of them what lay in the caller's waits.

Nobody else writes here, so nothing is locked. What a step costs is in benchmarks/tally.py.
"""

import threading
import time
from typing import Final, NamedTuple

from runai_model_streamer.io.source import Origin
from runai_model_streamer.pipeline.landing import Reading
from runai_model_streamer.pipeline.plan import Step
from runai_model_streamer.pipeline.trace import Events, Trace

ORIGINS: Final = {
    Origin.PAGE_CACHE: "page_cache",
    Origin.BUFFERED: "buffered",
    Origin.DISK: "disk",
    Origin.OBJECT: "object_storage",
    Origin.RANK: "other_ranks",
}
STAGES: Final = (*ORIGINS.values(), "cast", "copy", "memory", "rest")
"""What a reader's time goes to; for what each is, see `report.ReaderSeconds`."""


class ThreadTimes(NamedTuple):
    """What the kernel says of one thread, in seconds."""

    cpu: float
    delay: float | None
    """Ready to run, without a CPU; None: this kernel does not say."""


def thread_times(thread: int) -> ThreadTimes | None:
    """Of the thread of this process with this native id; None: it has ended, or this kernel does not say."""
    try:
        with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
            cpu, delay, _ = file.read().split()
    except (OSError, ValueError):
        return None
    return ThreadTimes(int(cpu) / 1e9, int(delay) / 1e9)


class WaitClock:
    """For how long the caller's thread has waited for bytes, in all: a clock that stands still while it does not."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # One value, so that a reader that looks meanwhile sees both as of the same moment.
        self._state: tuple[float, float | None] = (0.0, None)  # seconds before the current wait, and its start

    def start(self, now: float) -> None:
        """The caller's thread begins to wait."""
        self._state = self._state[0], now

    def stop(self, now: float) -> None:
        """It has what it waited for."""
        self._state = self.at(now), None

    def at(self, now: float) -> float:
        """Seconds waited until `now`."""
        waited, since = self._state
        return waited if since is None or now < since else waited + now - since


class ReaderTally:
    """One reader's. A mark goes along: each stage that ends is given the time since the mark, and sets it anew."""

    __slots__ = ("_clock", "_events", "_mark", "_thread", "_times", "_waited", "bytes", "in_wait", "reads", "seconds")

    def __init__(self, clock: WaitClock) -> None:
        self._clock = clock
        self._events: Events | None = None
        self._thread = 0
        self._times: ThreadTimes | None = None
        self._mark = self._waited = 0.0
        self.reads = 0
        self.bytes = dict.fromkeys(ORIGINS.values(), 0)
        """By the names of `report.BytesFrom`."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        """By the names of `report.ReaderSeconds`."""
        self.in_wait = dict.fromkeys(STAGES, 0.0)
        """Of `seconds`, those during which the caller's thread waited for bytes."""

    def begin(self, trace: Trace | None) -> None:
        """In the reader's thread, first."""
        self._thread = threading.get_native_id()
        if trace is not None:
            self._events = trace.thread(threading.current_thread().name, self._thread)
        self.mark()

    def end(self) -> None:
        """In the reader's thread, last."""
        self._times = thread_times(self._thread) or ThreadTimes(time.thread_time(), None)

    @property
    def times(self) -> ThreadTimes | None:
        """The thread's CPU time and delay, so far; None: not known yet."""
        return self._times or thread_times(self._thread)

    def mark(self) -> None:
        """What has passed since the last mark is no stage's."""
        self._mark = now = time.perf_counter()
        self._waited = self._clock.at(now)

    def stage(self, stage: str) -> None:
        """What has passed since the mark was this stage's."""
        now = time.perf_counter()
        waited = self._clock.at(now)
        self.seconds[stage] += now - self._mark
        self.in_wait[stage] += waited - self._waited
        if self._events is not None:
            self._events.stage(stage, self._mark, now)
        self._mark, self._waited = now, waited

    def read(self, group: int, step: Step, reading: Reading, beside: str) -> None:
        """A step of this group has been read. What the source did not take of the time was the stage `beside`'s."""
        now = time.perf_counter()
        waited = self._clock.at(now)
        passed, in_wait = now - self._mark, waited - self._waited
        origin = ORIGINS[reading.origin]
        part = reading.seconds / passed if passed > reading.seconds else 1.0
        self.reads += 1
        self.bytes[origin] += step.length
        self.seconds[origin] += passed * part
        self.seconds[beside] += passed * (1.0 - part)
        self.in_wait[origin] += in_wait * part
        self.in_wait[beside] += in_wait * (1.0 - part)
        if self._events is not None:
            self._events.read(self._mark, now, group, step, reading, beside)
        self._mark, self._waited = now, waited
