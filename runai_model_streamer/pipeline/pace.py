"""Finds by trial how many readers keep storage busy, and how large their reads should be."""

from typing import Final, Protocol

from runai_model_streamer.ranges import HUGE_PAGE, round_up

WINDOW: Final = 4
"""Reads for each reader in one measurement of the rate."""

GAIN: Final = 1.1
"""Speedup that keeps twice as many readers."""

HOLD: Final = 16
"""Windows between a failed trial and the next: storage that others used may be free again."""

MAX_HOLD: Final = 64
"""Each further trial that fails doubles the wait for the next one, up to this. A trial is as slow as its readers."""

BUSY: Final = 0.7
"""Share of readers' time in reads. Below it they mostly wait for memory, the caller or the GIL."""

MIN_SECONDS: Final = 1e-3
"""Seconds between the ends of two reads, of all readers together, at least. The Python code around a read takes a tenth
of that, under the GIL, which readers take in turns."""


class ReaderCount(Protocol):
    """How many readers are useful, found from the reads that land. One thread at a time calls `landed`."""

    @property
    def readers(self) -> int:
        """The number of useful readers."""
        ...

    @property
    def large(self) -> int:
        """Bytes of a read that pays, in whole huge pages; 0 for the chunk."""
        ...

    @property
    def short(self) -> int:
        """The number of reads of a huge page with which to begin, so that the first end soon."""
        ...

    def largest_of(self, left: int) -> int | None:
        """Return the largest read, in whole huge pages, of the last `left` bytes of a load; None for any."""
        ...

    def landed(self, length: int, seconds: float, now: float, *, fetched: bool = False) -> bool:
        """Record a read of `length` bytes that took `seconds`. Return whether more readers are useful now.

        `fetched`: they came from object storage.
        """
        ...


class Pace:
    """Begins with few readers, doubles them while that is faster, and goes back when it is not.

    Every additional reader competes for the GIL and fills the CPUs' caches with its own memory. One thread at a time
    calls `landed`; any thread may read the fields.

    Args:
        first: the readers to begin with.
        maximum: the most readers.
        now: `time.perf_counter()`.
    """

    short = 0

    def __init__(self, first: int, maximum: int, now: float) -> None:
        self.readers = min(first, maximum)
        """The number of useful readers."""
        self.large = 0
        """Bytes that all readers together read in `MIN_SECONDS`, in whole huge pages; 0 while unknown."""
        self._maximum = maximum
        self._before: tuple[int, float] | None = None  # during a trial: the readers and the rate before it
        self._hold = 0
        self._next_hold = HOLD
        self._ignored = 0
        self._reset(now)

    def largest_of(self, left: int) -> None:
        """Return None: readers of files end together, since their reads take milliseconds."""

    def _reset(self, now: float) -> None:
        self._began, self._reads, self._bytes, self._busy = now, 0, 0, 0.0

    def landed(self, length: int, seconds: float, now: float, *, fetched: bool = False) -> bool:  # noqa: ARG002 - all count
        """Record a read of `length` bytes that took `seconds`. Return whether more readers are useful now."""
        if self._ignored:
            self._ignored -= 1
            if not self._ignored:
                self._reset(now)
            return False
        self._reads += 1
        self._bytes += length
        self._busy += seconds
        if self._reads % self.readers or now <= self._began:
            return False
        rate, busy = self._bytes / (now - self._began), self._busy / (self.readers * (now - self._began))
        self.large = round_up(int(rate * MIN_SECONDS), HUGE_PAGE)
        if self._reads < WINDOW * self.readers:
            return False
        were = self.readers
        self._decide(rate, busy)
        if self.readers != were:
            self._ignored = max(were, self.readers)  # reads that began before the change
        self._reset(now)
        return self.readers > were

    def _decide(self, rate: float, busy: float) -> None:
        before, self._before = self._before, None
        if before is not None and rate < GAIN * before[1]:
            self.readers, self._hold = before[0], self._next_hold
            self._next_hold = min(2 * self._next_hold, MAX_HOLD)
            return
        if before is not None:
            self._next_hold = HOLD
        if self._hold:
            self._hold -= 1
        elif busy >= BUSY and self.readers < self._maximum:
            self._before = self.readers, rate
            self.readers = min(2 * self.readers, self._maximum)
