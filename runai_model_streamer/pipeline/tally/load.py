"""What a load counts and times as it goes: sums of the caller's thread, and the readers' own.

Costs are per read and per group, never per tensor, and nothing is locked: each thread writes its own sums, and they
are put together when somebody asks. Of tensors, leases and memory nothing is kept here.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.pipeline.tally.reader import ReaderTally, ThreadTimes, thread_times
from runai_model_streamer.pipeline.tally.trace import Events, Trace
from runai_model_streamer.pipeline.tally.wait_clock import Timer, WaitClock


@dataclass(slots=True)
class CallerSeconds:
    """What the caller's thread did, one after the other; see `report.LoadReport`."""

    plan: float = 0.0
    wait: float = 0.0
    make: float = 0.0
    place: float = 0.0
    caller: float = 0.0
    close: float = 0.0

    @property
    def all(self) -> float:
        """Their sum."""
        return self.plan + self.wait + self.make + self.place + self.caller + self.close


@dataclass(slots=True)
class Delivered:
    """What the caller has been given, or will have been at the end."""

    pieces: int = 0
    """Tensors as they land; parts that `select` asks for may be put together from several."""
    payload: int = 0
    """Bytes of their groups."""

    def add(self, group: Group) -> None:
        """One more group."""
        self.pieces += sum(len(part.tensors) for part in group.parts)
        self.payload += group.payload


class Tally:
    """One load's. Its methods are the caller's thread's.

    Args:
        trace: where events are noted, too; None: nowhere.
        started: `time.perf_counter()` when the load began; None: now.
        timer: tells the time.
    """

    def __init__(self, trace: Trace | None = None, started: float | None = None, timer: Timer = time) -> None:
        self._timer = timer
        self.trace = trace
        self.clock = WaitClock()
        self.readers: list[ReaderTally] = []
        self.seconds = CallerSeconds()
        self.delivered = Delivered()
        self.planned = Delivered()
        self.outcome = "running"
        self.error: str | None = None
        self.first: float | None = None
        """Seconds from the start to the first tensor."""
        self.first_concurrency = 0
        """Reads in flight to begin with."""
        self.concurrency = 0
        """Reads in flight at once, at most."""
        self.chunk = 0
        """Bytes of one read, at most."""
        self.limit: int | None = None
        """Bytes of host memory held at once, at most; None: no limit, or the destination's business."""
        self.peak = 0
        """Most bytes held at once."""
        self.retries = 0
        self.transport: str | None = None
        self.started_reading = False
        self.plan_cpu = 0.0
        """Seconds of CPU time of the caller's thread until reads began."""
        self._process_cpu = self._timer.process_time()
        self._process_cpu_in_all: float | None = None
        self._thread = threading.get_native_id()
        self._thread_cpu = self._timer.thread_time()
        self._times: ThreadTimes | None = None
        self._delay: float | None = None
        self._rest = 0.0  # seconds that making the rest of the current group's tensors should take
        self._placed = 0.0  # seconds of `place` at the mark
        self._phase = "plan"  # of `CallerSeconds`: what the time since the mark is; empty: nothing
        self._events: Events | None = None
        if trace is not None:
            self._events = trace.thread(threading.current_thread().name, self._thread)
        self._mark = self.started = self._timer.perf_counter() if started is None else started

    def reader(self, leasing: WaitClock) -> ReaderTally:
        """One for a reader; see there."""
        tally = ReaderTally(self.clock, leasing, self._timer)
        self.readers.append(tally)
        return tally

    @property
    def times(self) -> CallerSeconds:
        """Where the seconds went, until now or until the end; together they are all."""
        found = replace(self.seconds)
        if self._phase:
            self._add(found, self._timer.perf_counter() - self._mark)
        return found

    @property
    def delay(self) -> float | None:
        """Seconds that the caller's thread was ready to run without a CPU, since it asked for the first tensor."""
        if self._delay is None and self._times is not None and self._times.delay is not None:
            now = thread_times(self._thread)
            return None if now is None or now.delay is None else now.delay - self._times.delay
        return self._delay

    @property
    def process_cpu(self) -> float:
        """Seconds of CPU time of the whole process, until now or until the end."""
        found = self._process_cpu_in_all
        return self._timer.process_time() - self._process_cpu if found is None else found

    def plan(self, groups: Sequence[Group]) -> None:
        """All is planned. The caller's thread starts readers, and waits for the later ones while others read."""
        for group in groups:
            self.planned.add(group)
        self.plan_cpu = self._timer.thread_time() - self._thread_cpu
        self.started_reading = True
        self._lap("wait", "open and plan")
        self.clock.start(self._mark)

    def start(self) -> None:
        """Readers are at work; from here on the time is the caller's."""
        self._lap("caller", "start threads")
        self.clock.stop(self._mark)

    def ask(self) -> None:
        """The caller wants the next group, and has been given all tensors before."""
        if self._times is None:
            self._thread = threading.get_native_id()
            self._times = thread_times(self._thread)
        self._lap("wait", "caller's code")

    def wait(self) -> None:
        """The group's bytes are not there yet."""
        self.clock.start(self._mark)

    def landed(self) -> None:
        """They are."""
        self._lap("make", "wait for bytes")
        self.clock.stop(self._mark)

    def made(self, group: Group, count: int) -> None:
        """The first `count` of the group's tensors have been made."""
        seconds = self._lap("caller", "make tensors", group)
        self._rest = seconds * (sum(len(part.tensors) for part in group.parts) / count - 1)
        if self.first is None:
            self.first = self._mark - self.started

    def give(self, group: Group) -> None:
        """The caller has all of the group's tensors, and has come for more."""
        seconds = self._lap("caller", "caller's code", group)
        # Each batch is not timed: on a GPU they are of one tensor.
        rest, self._rest = min(self._rest, seconds), 0.0
        self.seconds.make += rest
        self.seconds.caller -= rest
        self.delivered.add(group)

    def end(self, outcome: str) -> None:
        """The load has come to an end, unless it had before."""
        if self.outcome == "running":
            self._lap("", "caller's code")
            self.clock.stop(self._mark)
            self._delay = self.delay
            self._process_cpu_in_all = self.process_cpu
            self.outcome = outcome

    def fail(self, error: BaseException) -> None:
        """This is what ended it, or what went wrong in ending it."""
        self.end("failed")
        self.outcome, self.error = "failed", f"{type(error).__name__}: {error}"

    def closing(self) -> None:
        """The load is being closed."""
        self._mark, self._phase = self._timer.perf_counter(), "close"

    def closed(self) -> None:
        """It has been."""
        self._lap("", "close")
        self._process_cpu_in_all = self._timer.process_time() - self._process_cpu

    def _lap(self, phase: str, event: str, group: Group | None = None) -> float:
        """What has passed since the mark was the current phase; another begins. Returns the seconds of the former."""
        now = self._timer.perf_counter()
        passed = self._add(self.seconds, now - self._mark)
        if self._events is not None:
            self._events.caller(event, self._mark, now, group)
        self._mark, self._phase, self._placed = now, phase, self.seconds.place
        return passed

    def _add(self, seconds: CallerSeconds, passed: float) -> float:
        if self._phase == "caller":
            passed = max(passed - (self.seconds.place - self._placed), 0.0)
        if self._phase:
            setattr(seconds, self._phase, getattr(seconds, self._phase) + passed)
        return passed
