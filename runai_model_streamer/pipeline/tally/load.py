"""The counts and times of a load: those of the caller's thread, and a `ReaderTally` for each reader.

Counting costs time per read and per group, never per tensor. It takes no lock: each thread writes its own sums, and
they are added up on demand. The tally keeps no reference to tensors, leases or memory.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from runai_model_streamer.io.cache_counts import CacheCounts
from runai_model_streamer.io.setup_time import SetupSeconds
from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.pipeline.tally.shared import SharedCounts
from runai_model_streamer.pipeline.tally.timer import SYSTEM, Timer
from runai_model_streamer.pipeline.tally.trace import Events, Trace
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.threads.times import ThreadTimes


@dataclass(slots=True)
class CallerSeconds:
    """Seconds of each phase of the caller's thread; see `report.LoadReport`."""

    plan: float = 0.0
    wait: float = 0.0
    make: float = 0.0
    place: float = 0.0
    caller: float = 0.0
    close: float = 0.0

    @property
    def all(self) -> float:
        """The sum of all phases."""
        return self.plan + self.wait + self.make + self.place + self.caller + self.close


@dataclass(slots=True)
class Delivered:
    """Counts of what the caller has received, or will have received at the end."""

    pieces: int = 0
    """Tensors as they land. A part that `select` asks for may consist of several."""
    payload: int = 0
    """Payload bytes of their groups."""

    def add(self, group: Group) -> None:
        """Count one more group."""
        self.pieces += sum(len(part.tensors) for part in group.parts)
        self.payload += group.payload


class Tally:
    """The counts and times of one load. Only the caller's thread calls the methods.

    Args:
        trace: receives events too; None for no trace.
        started: `time.perf_counter()` when the load began; None for now.
        timer: the clocks.
    """

    def __init__(self, trace: Trace | None = None, started: float | None = None, timer: Timer = SYSTEM) -> None:
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
        """Reads in flight at first."""
        self.concurrency = 0
        """The most reads in flight at once."""
        self.chunk = 0
        """The most bytes of one read."""
        self.limit: int | None = None
        """The most bytes of host memory held at once; None: no limit, or the destination has its own."""
        self.peak = 0
        """The most bytes that were held at once."""
        self.ways: dict[str, int] = {}
        """How files have been read, and why -> number of files."""
        self.retries = 0
        self.connections: Sequence[tuple[float, int]] = ()
        """`time.perf_counter()` of each change of the number of useful connections, and the number from then on."""
        self.held_by = ""
        """What kept it from more: a value of `connections.Held`."""
        self.transport: str | None = None
        self.cached: CacheCounts | None = None
        """What the load did with the node's cache; None: there is none."""
        self.setup = SetupSeconds()
        """What was done before reads could begin."""
        self.connecting = 0.0
        """Thread-seconds in which readers made connections to object storage."""
        self.shared: SharedCounts | None = None
        """What this rank has read, taken and waited for, where others share the load."""
        self.count_shared: Callable[[], SharedCounts | None] | None = None
        """Counts that; until the load is closed."""
        self.started_reading = False
        self.plan_cpu = 0.0
        """CPU seconds of the caller's thread until reads began."""
        self._process_cpu = self._timer.process_time()
        self._process_cpu_in_all: float | None = None
        self._thread = threading.get_native_id()
        self._thread_cpu = self._timer.thread_time()
        self._times: ThreadTimes | None = None
        self._delay: float | None = None
        self._rest = 0.0  # estimated seconds to make the rest of the current group's tensors
        self._placed = 0.0  # seconds of `place` at the mark
        self._phase = "plan"  # field of `CallerSeconds` that the time since the mark belongs to; empty: none
        self._events: Events | None = None
        if trace is not None:
            self._events = trace.thread(threading.current_thread().name, self._thread)
        self._mark = self.started = self._timer.perf_counter() if started is None else started

    def reader(self, leasing: WaitClock) -> ReaderTally:
        """Add the tally of one more reader. `leasing` is the clock of waits for memory."""
        tally = ReaderTally(self.clock, leasing, self._timer)
        self.readers.append(tally)
        return tally

    @property
    def times(self) -> CallerSeconds:
        """Seconds of each phase until now, or until the end. They add up to the whole load."""
        found = replace(self.seconds)
        if self._phase:
            self._add(found, self._timer.perf_counter() - self._mark)
        return found

    @property
    def delay(self) -> float | None:
        """Seconds that the caller's thread waited for a CPU since it asked for the first tensor."""
        if self._delay is None and self._times is not None and self._times.delay is not None:
            now = self._timer.thread_times(self._thread)
            return None if now is None or now.delay is None else now.delay - self._times.delay
        return self._delay

    @property
    def process_cpu(self) -> float:
        """CPU seconds of the whole process until now, or until the end."""
        found = self._process_cpu_in_all
        return self._timer.process_time() - self._process_cpu if found is None else found

    def plan(self, groups: Sequence[Group]) -> None:
        """End the planning phase. Starting readers comes next; it counts as waiting, since the first already read."""
        for group in groups:
            self.planned.add(group)
        self.plan_cpu = self._timer.thread_time() - self._thread_cpu
        self.started_reading = True
        self._lap("wait", "open and plan")
        self.clock.start(self._mark)

    def start(self) -> None:
        """End the start of readers. From here on the time is the caller's."""
        self._lap("caller", "start threads")
        self.clock.stop(self._mark)

    def ask(self) -> None:
        """Note that the caller asks for the next group and has all tensors of the ones before."""
        if self._times is None:
            self._thread = threading.get_native_id()
            self._times = self._timer.thread_times(self._thread)
        self._lap("wait", "caller's code")

    def wait(self) -> None:
        """Start a wait for the group's bytes."""
        self.clock.start(self._mark)

    def landed(self) -> None:
        """Note that the group's bytes have landed."""
        self._lap("make", "wait for bytes")
        self.clock.stop(self._mark)

    def made(self, group: Group, count: int) -> None:
        """Note that the first `count` of the group's tensors have been made."""
        seconds = self._lap("caller", "make tensors", group)
        self._rest = seconds * (sum(len(part.tensors) for part in group.parts) / count - 1)
        if self.first is None:
            self.first = self._mark - self.started

    def give(self, group: Group) -> None:
        """Note that the caller has all of the group's tensors and asks for more."""
        seconds = self._lap("caller", "caller's code", group)
        # Not every batch is timed: on a GPU a batch is one tensor.
        rest, self._rest = min(self._rest, seconds), 0.0
        self.seconds.make += rest
        self.seconds.caller -= rest
        self.delivered.add(group)

    def end(self, outcome: str) -> None:
        """End the load with this outcome, unless it has ended already."""
        if self.outcome == "running":
            self._lap("", "caller's code")
            self.clock.stop(self._mark)
            self._delay = self.delay
            self._process_cpu_in_all = self.process_cpu
            self.outcome = outcome

    def fail(self, error: BaseException) -> None:
        """End the load with this error, or record an error of its end."""
        self.end("failed")
        self.outcome, self.error = "failed", f"{type(error).__name__}: {error}"

    def closing(self) -> None:
        """Note that the load's close begins."""
        self._mark, self._phase = self._timer.perf_counter(), "close"

    def closed(self) -> None:
        """Note that the load's close has finished."""
        self._lap("", "close")
        self._process_cpu_in_all = self._timer.process_time() - self._process_cpu

    def _lap(self, phase: str, event: str, group: Group | None = None) -> float:
        """Add the time since the mark to the current phase, and begin `phase`. Return the seconds added."""
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
