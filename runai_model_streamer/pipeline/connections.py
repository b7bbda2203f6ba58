"""Finds by trial how many connections to object storage bring the most.

A store serves each connection at a rate of its own, 40 to 90 MB/s on S3, whatever the network. So the number of
connections decides how fast a load is, and the right one depends on the store, the network and the machine:

- It begins with a few, and tries four times as many (`STEP`) while each brings about as much as before; twice as many
  where reads are quick, keep the CPUs busy, or where more have been in vain. What is compared is bytes a second of one
  connection, times their number: connections that begin together end together, so that counting what lands in a span
  of time would depend on where the span begins.
- Only reads that began after a change count for it, or nearly so. New connections begin at once, so that a trial takes
  about one read, and the first reads are short: 16, 64 and 256 are tried within half a second where a read of 8 MiB
  takes 0.3 s.
- Connections that are new are slower at first: TCP and TLS are set up, and TCP finds its speed. So a trial that
  brings less than hoped is looked at a second time. Then there are as many as bring what was seen, and a quarter
  more (`MARGIN`).
- A trial that was no faster goes back, and comes again after `HOLD` windows, since others may have left by then; after
  twice as many if that is in vain, too.
- Refusals (503 SlowDown, 429), timeouts and a lack of file descriptors take connections away, a window at a time. They
  come again in smaller steps.
- The last reads are smaller, so that connections end together.
- Where readers are on a CPU, or wait for one, for much of their reads, no more are tried: they would only take it from
  each other.
- Connections that mostly wait for memory, or for the caller, are enough: a memory limit bounds them by itself.

A reader is a thread, with one connection. It rests without a step and without memory when it is not needed.
"""

import threading
from collections.abc import Callable
from enum import Enum
from math import ceil
from typing import Final

from runai_model_streamer.pipeline.tally.timer import SystemTimer
from runai_model_streamer.ranges import HUGE_PAGE, round_up

STEP: Final = 4
"""Times as many connections as before are tried, ..."""

DOUBLE: Final = 2
"""... or so many, where there is less to gain or more to lose."""

EVEN: Final = 0.8
"""Rate of a connection after a trial, of that before it, from which on nothing but their number bounds them."""

GAIN: Final = 1.15
"""Least speedup that keeps more connections."""

MARGIN: Final = 1.25
"""Connections that are kept, for each that was needed at the rate before."""

NEARLY: Final = 0.9
"""Part of a read that came after a change, from which on it counts for it. Connections that are served evenly begin
together, so that many began a moment before the change that one of them made."""

HOLD: Final = 8
"""Windows between a first trial in vain and the next, ..."""

LONGEST_HOLD: Final = 64
"""... and the most between two of them."""

BUSY: Final = 0.5
"""Share of readers' time in reads. Below it they mostly wait for memory or the caller. Just after a change the reads
that began before it do not count, so that busy readers seem to read two thirds of the time."""

ENOUGH: Final = 7 / 8
"""Reads of a window, for each connection. A few that lag far behind the others do not hold a decision up."""

LOOKS: Final = 2
"""Windows of a trial that brings more, but not as much as hoped."""

KEPT: Final = 0.7
"""Part of the connections that is left after a window with refusals, and ..."""

REFUSED: Final = 0.05
"""... refusals for each read of a window that are one in passing."""

AGAIN: Final = 1.25
"""Times as many connections as before are tried, once there were refusals."""


ON_CPU: Final = 0.3
"""Part of reads that readers are on a CPU or wait for one, from which on no more are tried, and no more than twice as
many from a quarter of it on. Where the network bounds reads, it is about a twentieth."""

SLOW: Final = 120e6
"""Bytes a second of a connection below which it is slow: the last reads are cut smaller, and trials are larger. Each
request has a price, too."""

SHORT: Final = 2
"""Reads of each connection that are short at first. They end sooner, and so does the first window: within 0.1 s rather
than 0.3 where a connection brings 30 MB/s."""


class Held(Enum):
    """What kept a load from more connections. The values are those of `LoadReport.connections_held_by`."""

    NOTHING = ""
    """Too few reads to tell."""
    MAXIMUM = "maximum"
    """There may be no more."""
    NO_FASTER = "no faster"
    """More brought no more bytes."""
    REFUSED = "refused"
    """The store refused requests, or did not answer."""
    CPU = "cpu"
    """Those that there were kept the CPUs busy."""
    IDLE = "idle"
    """Those that there were waited for memory or for the caller."""


def thread_seconds() -> float:
    """Return for how long this thread has been on a CPU or has waited for one; 0 if the kernel does not say."""
    times = SystemTimer().thread_times(threading.get_native_id())
    return 0.0 if times is None else times.cpu + (times.delay or 0.0)


class ConnectionPace:
    """How many readers of objects are useful; see `pace.ReaderCount`.

    Args:
        first: the connections to begin with.
        maximum: the most connections.
        now: `time.perf_counter()`.
        refusals: the number of requests so far that the store refused, or did not answer.
        minimum: the fewest connections.
        on_cpu: seconds that the calling thread has been on a CPU or has waited for one so far.
    """

    large = 0

    def __init__(
        self,
        first: int,
        maximum: int,
        now: float,
        refusals: Callable[[], int] = lambda: 0,
        minimum: int = 1,
        on_cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.readers = min(first, maximum)
        self.history = [(now, self.readers)]
        """The number of connections from each time on."""
        self.short = SHORT * self.readers if self.readers < maximum else 0
        self.held = Held.NOTHING if self.readers < maximum else Held.MAXIMUM
        """What keeps it from more now."""
        self.maximum = maximum
        """The most connections."""
        self._minimum = min(minimum, self.readers)
        self._refusals = refusals
        self._on_cpu = on_cpu
        self._thread = threading.local()
        self._refused = refusals()
        self._ever_refused = False
        self._before: tuple[int, float] | None = None  # during a trial: the connections and the rate before it
        self._looks = 0  # windows of this trial so far
        self._even = True  # the last trial brought as much as hoped
        self._hold = 0
        self._next_hold = HOLD
        self._each = 0.0  # bytes a second of a connection; 0 before the first window
        self._changed = now
        self._reset(now)

    def largest_of(self, left: int) -> int | None:
        """Return a part of what is left for each connection, if they are slow: so they end nearly together."""
        if not 0 < self._each < SLOW:
            return None
        return round_up(max(left // self.readers, 1), HUGE_PAGE)

    def _reset(self, now: float) -> None:
        self._began, self._reads, self._bytes = now, 0, 0
        self._seconds = self._cpu = self._cpu_seconds = self._elsewhere = 0.0

    def _cpu_of_read(self) -> float | None:
        """Return how long the thread's last read kept it on a CPU, or waiting for one; None if that is not known.

        The kernel is asked only while more connections may be tried soon: that is three system calls.
        """
        if self.readers >= self.maximum or self._hold > 1:
            self._thread.spent = None
            return None
        before, spent = getattr(self._thread, "spent", 0.0), self._on_cpu()
        self._thread.spent = spent
        return None if before is None else spent - before

    def _cpu_part(self) -> float:
        return self._cpu / self._cpu_seconds if self._cpu_seconds else 0.0

    def landed(self, length: int, seconds: float, now: float, *, fetched: bool = True) -> bool:
        """Record a read of `length` bytes that took `seconds`. Return whether more readers are useful now.

        A read of the node's disk says nothing of connections, but that its reader was busy.
        """
        cpu = self._cpu_of_read()
        if not fetched:
            self._elsewhere += seconds
            return False
        if now - self._changed < NEARLY * seconds:
            return False  # it began with another number of connections
        self._reads += 1
        self._bytes += length
        self._seconds += seconds
        if cpu is not None:
            self._cpu += cpu
            self._cpu_seconds += seconds
        if self._reads < ENOUGH * self.readers or now <= self._began or not self._seconds:
            return False
        rate = self.readers * self._bytes / self._seconds
        self._each = self._bytes / self._seconds
        seconds = self._seconds + self._elsewhere
        busy = seconds / (min(self._reads, self.readers) * (now - self._began))
        all_refusals = self._refusals()
        refused, self._refused = all_refusals - self._refused, all_refusals
        were = self.readers
        self._decide(rate, busy, refused)
        if self.readers != were:
            self._changed = now
            self.history.append((now, self.readers))
        self._reset(now)
        return self.readers > were

    def _decide(self, rate: float, busy: float, refused: int) -> None:
        before, self._before = self._before, None
        if refused > max(1, REFUSED * self._reads):
            self._ever_refused = True
            self.held, self._hold = Held.REFUSED, HOLD
            self.readers = before[0] if before else max(int(self.readers * KEPT), self._minimum)
        elif before is not None and not self._goes_on(*before, rate, busy):
            return
        elif self.readers >= self.maximum:
            self.held = Held.MAXIMUM
        elif self._hold:
            self._hold -= 1
        elif busy < BUSY:
            self.held = Held.IDLE
        elif self._cpu_part() >= ON_CPU:
            self.held = Held.CPU
        elif not refused:
            self._before, self._looks = (self.readers, rate), 0
            self.readers = min(self._more(), self.maximum)

    def _goes_on(self, readers: int, rate: float, now: float, busy: float) -> bool:
        """Judge a trial by the connections and the rate before it and the rate now. Return whether to go on at once."""
        times = now / rate
        self._even = times >= EVEN * self.readers / readers
        self._looks += 1
        if self._even and busy >= BUSY:
            self._next_hold = HOLD
            return True
        # Of fewer more connections, less is expected.
        faster = busy >= BUSY and times >= 1 + (GAIN - 1) * min(self.readers / readers - 1, 1)
        if faster and self._looks < LOOKS:
            self._before = readers, rate
            return False
        self.held, self._hold = Held.IDLE if busy < BUSY else Held.NO_FASTER, self._next_hold
        self._next_hold = HOLD if faster else min(2 * self._next_hold, LONGEST_HOLD)
        self.readers = min(ceil(readers * times * MARGIN), self.readers) if faster else readers
        return False

    def _more(self) -> int:
        """Return how many connections to try."""
        if self._ever_refused:
            return int(self.readers * AGAIN) + 1
        slow = self._each < SLOW and self._cpu_part() < ON_CPU / 4
        return self.readers * (STEP if slow and self._even else DOUBLE)
