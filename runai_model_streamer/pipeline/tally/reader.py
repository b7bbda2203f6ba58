"""The counts and times of one reader: seconds of each stage, and the part of them during the caller's waits.

Only the reader writes here, so it needs no lock. benchmarks/tally.py measures the cost of a step.
"""

import threading
from typing import Final

from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.plan.groups import Step
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.timer import SYSTEM, Timer
from runai_model_streamer.pipeline.tally.trace import Events, Trace
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.threads.times import ThreadTimes

STAGES: Final = (*(origin.field for origin in Origin), "cast", "copy", "memory", "rest")
"""The stages of a reader's time; `report.ReaderSeconds` describes each."""


class ReaderTally:
    """The counts and times of one reader. Each stage that ends gets the time since the mark, and moves the mark.

    Args:
        clock: the caller's waits for bytes.
        leasing: the readers' waits for memory.
        timer: the clocks.
    """

    __slots__ = (
        "_clock",
        "_events",
        "_leased",
        "_leasing",
        "_mark",
        "_thread",
        "_timer",
        "_times",
        "_waited",
        "bytes",
        "in_wait",
        "reads",
        "seconds",
    )

    def __init__(self, clock: WaitClock, leasing: WaitClock, timer: Timer = SYSTEM) -> None:
        self._timer = timer
        self._clock = clock
        self._leasing = leasing
        self._leased = 0.0
        self._events: Events | None = None
        self._thread = 0
        self._times: ThreadTimes | None = None
        self._mark = self._waited = 0.0
        self.reads = 0
        self.bytes = dict.fromkeys((origin.field for origin in Origin), 0)
        """Bytes read, by field of `report.BytesFrom`."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        """Seconds of each stage, by field of `report.ReaderSeconds`."""
        self.in_wait = dict.fromkeys(STAGES, 0.0)
        """The part of `seconds` during which the caller's thread waited for bytes."""

    def begin(self, trace: Trace | None) -> None:
        """Begin to count. The reader's thread calls it first."""
        self._thread = threading.get_native_id()
        if trace is not None:
            self._events = trace.thread(threading.current_thread().name, self._thread)
        self.mark()

    def end(self) -> None:
        """End the count. The reader's thread calls it last."""
        self._times = self._timer.thread_times(self._thread) or ThreadTimes(self._timer.thread_time(), None)

    @property
    def times(self) -> ThreadTimes | None:
        """The thread's CPU time and delay so far; None if not yet known."""
        return self._times or self._timer.thread_times(self._thread)

    def mark(self) -> None:
        """Move the mark to now. The time since the last one belongs to no stage."""
        self._mark = now = self._timer.perf_counter()
        self._waited = self._clock.at(now)
        self._leased = self._leasing.at(now)

    def rested(self) -> None:
        """Count the time since the mark as rest."""
        began, waited = self._mark, self._waited
        self.mark()
        self.seconds["rest"] += self._mark - began
        self.in_wait["rest"] += self._waited - waited
        if self._events is not None:
            self._events.wait("rest", began, self._mark)

    def took(self) -> None:
        """Count the wait for the next step: for memory as long as any reader waited for memory, else for its turn."""
        began, waited, leased = self._mark, self._waited, self._leased
        self.mark()
        passed, memory = self._mark - began, self._leased - leased
        if memory > 0.0:
            self.seconds["memory"] += memory
            self.in_wait["memory"] += (self._waited - waited) * min(memory / passed, 1.0)
        if self._events is not None:
            self._events.wait("memory" if 2 * memory > passed else "turn", began, self._mark)

    def read(self, group: int, step: Step, reading: Reading, extra_stage: str | None) -> None:
        """Count a step of this group. Time that the source did not take belongs to `extra_stage`."""
        now = self._timer.perf_counter()
        waited = self._clock.at(now)
        passed, in_wait = now - self._mark, waited - self._waited
        origin = reading.origin.field
        part = reading.seconds / passed if passed > reading.seconds and extra_stage is not None else 1.0
        self.reads += 1
        self.bytes[origin] += step.length
        self.seconds[origin] += passed * part
        self.in_wait[origin] += in_wait * part
        if extra_stage is not None:
            self.seconds[extra_stage] += passed * (1.0 - part)
            self.in_wait[extra_stage] += in_wait * (1.0 - part)
        if self._events is not None:
            self._events.read(self._mark, now, group, step, reading, extra_stage)
        self._mark, self._waited = now, waited
