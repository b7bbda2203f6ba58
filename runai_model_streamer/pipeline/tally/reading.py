"""One read, timed."""

import time
from collections.abc import Callable
from typing import NamedTuple

from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range


class Reading(NamedTuple):
    """Origin and times of one read."""

    origin: Origin
    """The origin of the bytes."""
    seconds: float
    """Seconds that the source took, without waits for memory."""
    began: float | None = None
    """Start of the read, by `time.perf_counter`; None for several reads with other work in between."""


def timed_read(source: Source, offset: int, buffer: memoryview) -> Reading:
    """Fill the buffer from the source; see `Source.read_into`."""
    with nvtx_range("read"):
        started = time.perf_counter()
        origin = source.read_into(offset, buffer)
        return Reading(origin, time.perf_counter() - started, started)


def timed_call(read: Callable[[], Origin]) -> Reading:
    """Call `read` and return its origin and times."""
    started = time.perf_counter()
    origin = read()
    return Reading(origin, time.perf_counter() - started, started)
