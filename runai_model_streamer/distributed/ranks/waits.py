"""Keeps which ranks this one waits for, and since when."""

import contextlib
import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

from runai_model_streamer.distributed.ranks.notices import TimedOut

CONNECTING: Final = 30.0
"""Maximum seconds for ranks to connect, once all of them are ready."""


class Waits:
    """The waits of one rank's threads. Thread safe."""

    def __init__(self) -> None:
        self._waits: dict[object, tuple[float, tuple[int, ...]]] = {}

    @contextlib.contextmanager
    def of(self, *ranks: int) -> Iterator[None]:
        """Note a wait for another rank, or for any of several, while the context is open."""
        key = object()
        self._waits[key] = (time.monotonic(), ranks)
        try:
            yield
        finally:
            del self._waits[key]

    def longer_than(self, seconds: float) -> TimedOut:
        """Return the ranks of the waits that have taken so long."""
        since = time.monotonic() - seconds
        waits = [ranks for began, ranks in sorted(self._waits.values()) if began < since]
        waited = dict.fromkeys(chain.from_iterable(waits))
        return TimedOut(tuple(waited), tuple(dict.fromkeys(ranks[0] for ranks in waits if len(ranks) == 1)))
