"""A store that is made up, and its own clock: what a load's number of connections is found with."""

import heapq
import random
from collections.abc import Callable

from runai_model_streamer.pipeline.connections import ConnectionPace

READ = 8 << 20
MB = 10**6


class Store:
    """Readers that read one range after the other, as long as they are useful.

    Args:
        rate: bytes a second of one connection, where there are so many.
        refuses: whether a request is refused, where there are so many. It takes a second then.
        pause: seconds that a reader waits for memory between two reads.
        latency: seconds until an answer begins; a first one takes three times as long.
        uneven: how much longer or shorter than others a read is at most, as a part.
    """

    def __init__(
        self,
        first: int,
        maximum: int,
        rate: Callable[[int], float],
        refuses: Callable[[int], bool] = lambda _: False,
        pause: float = 0.0,
        minimum: int = 1,
        on_cpu: Callable[[], float] = lambda: 0.0,
        latency: float = 0.0,
        uneven: float = 0.0,
    ) -> None:
        self.latency, self.uneven = latency, uneven
        self.seconds: list[float] = []
        """Bytes that came in each second."""
        self._random = random.Random(7)
        self._connected: set[int] = set()
        self.rate, self.refuses, self.pause, self.now, self.refused = rate, refuses, pause, 0.0, 0
        self.pace = ConnectionPace(first, maximum, 0.0, lambda: self.refused, minimum, on_cpu)
        self._sent = 0.0  # bytes that a connection would have brought that was busy all the time
        self._waiting: list[tuple[float, int, float]] = []  # until when, the reader, when its read began
        self._reading: list[tuple[float, int, float]] = []  # until how much is sent, the reader, when its read began
        self._wake()

    def _wake(self) -> None:
        """Let all useful readers read."""
        busy = {reader for _, reader, _ in (*self._reading, *self._waiting)}
        for reader in set(range(self.pace.readers)) - busy:
            self._begin(reader, self.now)

    def _begin(self, reader: int, began: float) -> None:
        refused = self.refuses(self.pace.readers)
        self.refused += refused
        until = began + refused + self.latency * (1 if reader in self._connected else 3)
        self._connected.add(reader)
        heapq.heappush(self._waiting, (until, reader, began))

    def run(self, seconds: float) -> "Store":
        end = self.now + seconds
        while self.now < end:
            rate = self.rate(max(len(self._reading), 1))
            lands = self.now + (self._reading[0][0] - self._sent) / rate if self._reading else end
            then = min(lands, self._waiting[0][0] if self._waiting else end, end)
            self._pass(then, rate)
            if self._waiting and self._waiting[0][0] <= then:
                _, reader, began = heapq.heappop(self._waiting)
                size = READ * self._random.uniform(1 - self.uneven, 1 + self.uneven)
                heapq.heappush(self._reading, (self._sent + size, reader, began))
            elif then == lands < end:
                self._land(*heapq.heappop(self._reading)[1:])
        return self

    def _pass(self, then: float, rate: float) -> None:
        self._sent += (then - self.now) * rate
        while self.now < then:
            second = int(self.now)
            until = min(then, second + 1.0)
            self.seconds.extend([0.0] * (second + 1 - len(self.seconds)))
            self.seconds[second] += (until - self.now) * rate * len(self._reading)
            self.now = until

    def _land(self, reader: int, began: float) -> None:
        were = self.pace.readers
        more = self.pace.landed(READ, self.now - began, self.now)
        assert more is (self.pace.readers > were)
        if reader < self.pace.readers:
            self._begin(reader, self.now + self.pause)
        if more:
            self._wake()

    @property
    def counts(self) -> list[int]:
        return [count for _, count in self.pace.history]
