"""How many bytes one direct read should ask for, as the disk's rate shows."""

from collections import defaultdict
from typing import Final, TypeAlias

from runai_model_streamer.ranges import round_down
from runai_model_streamer.settings.units import setting_text

MIN_REQUEST: Final = 4 << 20
"""Half of the CPU time of requests of 1 MiB, on a disk of 1.6 GB/s and as fast there (benchmarks/RUNS.md)."""

MAX_REQUEST: Final = 128 << 20

SECONDS: Final = 1e-3
"""What a request should last at least for the reader that waits for it. Latency is then a small part of it."""

SHARED_SECONDS: Final = 0.4e-3
"""Seconds between the ends of two requests, of all readers together, at least. The Python code around a request takes a
fortieth of that, under the GIL. A disk of up to 10 GB/s is thus asked for `MIN_REQUEST` at once by several readers."""

WINDOW: Final = 16
"""Requests of full size in one measurement of the rate, or more that are shorter, as the tails of ranges are."""

FIRST_WINDOW: Final = 4
"""The same in the first measurement. A fast disk idles while readers start, unless they soon ask for much."""


class RequestSize:
    """Measures the rate of a disk's direct reads, and sets the size of the next ones by it.

    Any thread may call `landed`. Threads that do so at once may lose a request of the measurement, which is all.

    Args:
        seconds: what a request should last for its reader.
        shared_seconds: seconds between the ends of two requests, of all readers together.
    """

    def __init__(self, seconds: float = SECONDS, shared_seconds: float = SHARED_SECONDS) -> None:
        self.size = MIN_REQUEST
        """Bytes to ask for at once."""
        self._least = MIN_REQUEST
        self._seconds, self._shared_seconds = seconds, shared_seconds
        self._began: float | None = None
        self._window = FIRST_WINDOW
        self._reset()

    def _reset(self) -> None:
        self._bytes, self._busy = 0, 0.0

    def at_least(self, size: int) -> None:
        """Ask for no less than `size` bytes at once from now on, where CPUs have other work than to request them."""
        self._least = size
        self.size = max(self.size, size)

    def landed(self, length: int, began: float, ended: float) -> None:
        """Record a request of `length` bytes that took from `began` to `ended`, by `time.perf_counter`."""
        start = self._began
        if start is None:
            self._began = start = began
        self._bytes += length
        self._busy += ended - began
        if self._bytes < self._window * self.size or self._busy <= 0.0 or ended <= start:
            return
        # A reader that waits for the GIL seems to read slowly. All readers together do not.
        wanted = max(self._bytes / self._busy * self._seconds, self._bytes / (ended - start) * self._shared_seconds)
        self.size = max(self._least, round_down(int(min(wanted, MAX_REQUEST)), MIN_REQUEST))
        self._began, self._window = ended, WINDOW
        self._reset()


RequestSizes: TypeAlias = defaultdict[int, RequestSize]
"""The device of a load's files -> the size of requests to it: a load measures a disk once, not for each file."""


def way_of(largest: int) -> str:
    """Say how a file was read whose largest direct request had these bytes. Rounded up, so that few files differ."""
    requests = -(-largest // MIN_REQUEST)
    if not requests:
        return "through the page cache: it held all bytes"
    return f"past the page cache, up to {setting_text(MIN_REQUEST << (requests - 1).bit_length())} at once"
