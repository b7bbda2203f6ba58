"""How many readers keep storage busy, and how large their reads are: found by trying."""

from typing import Final

from runai_model_streamer.ranges import HUGE_PAGE, round_up

WINDOW: Final = 4
"""Reads of each reader over which the rate is measured."""

GAIN: Final = 1.1
"""Twice as many readers have to be so much faster to stay."""

HOLD: Final = 16
"""Windows after a trial in vain until the next: storage that others used meanwhile may have become free."""

BUSY: Final = 0.7
"""Share of their time in reads below which readers wait for other things: memory, the caller, or the GIL."""

MIN_SECONDS: Final = 1e-3
"""What one read should last: the Python around it takes a tenth of that, in turns with all other readers."""


class Pace:
    """Begins with few readers, doubles them while that is faster, and goes back where it was not.

    Each reader more waits with the others for the GIL, and has the CPUs' caches filled with memory of its own. One
    thread at a time calls `landed`; the rest is read by any.

    Args:
        first: readers to begin with.
        most: readers at most.
        now: `time.perf_counter()`.
    """

    def __init__(self, first: int, maximum: int, now: float) -> None:
        self.readers = min(first, maximum)
        """Readers that are of use."""
        self.large = 0
        """Bytes of a read that lasts `MIN_SECONDS`, whole huge pages; 0: not known yet."""
        self._maximum = maximum
        self._before: tuple[int, float] | None = None  # a trial goes on: readers and rate without it
        self._hold = 0
        self._ignored = 0
        self._reset(now)

    def _reset(self, now: float) -> None:
        self._began, self._reads, self._bytes, self._busy = now, 0, 0, 0.0

    def landed(self, length: int, seconds: float, now: float) -> bool:
        """A read of so many bytes has ended, which lasted so long; whether there are more readers of use now."""
        if self._ignored:
            self._ignored -= 1
            if not self._ignored:
                self._reset(now)
            return False
        self._reads += 1
        self._bytes += length
        self._busy += seconds
        if self._reads < WINDOW * self.readers or now <= self._began:
            return False
        rate, busy = self._bytes / (now - self._began), self._busy / (self.readers * (now - self._began))
        self.large = round_up(int(rate / self.readers * MIN_SECONDS), HUGE_PAGE)
        were = self.readers
        self._decide(rate, busy)
        if self.readers != were:
            self._ignored = max(were, self.readers)  # those that began before
        self._reset(now)
        return self.readers > were

    def _decide(self, rate: float, busy: float) -> None:
        before, self._before = self._before, None
        if before is not None and rate < GAIN * before[1]:
            self.readers, self._hold = before[0], HOLD
        elif self._hold:
            self._hold -= 1
        elif busy >= BUSY and self.readers < self._maximum:
            self._before = self.readers, rate
            self.readers = min(2 * self.readers, self._maximum)
