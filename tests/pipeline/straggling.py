"""A load from a store that is made up, some of whose answers are slow, on its own clock.

It finds the number of its connections, and asks a second time for ranges that are late, as a load from S3 does.
"""

import random

from runai_model_streamer.io.http.laggards import HedgePolicy, Laggards, Late
from runai_model_streamer.pipeline.connections import ConnectionPace
from runai_model_streamer.ranges import HUGE_PAGE
from tests.pipeline.slow_store import MB, READ

STEP_S = 0.005


class Answer:
    """An answer to one request: `burst` bytes at once, again and again, as nginx limits a rate, or one by one."""

    def __init__(self, size: int, start: int, began: float, rate: float, burst: int) -> None:
        self.size, self.start, self.began, self.rate, self.burst = size, start, began, rate, burst
        self._sent = 0.0
        self.landed = start
        """Bytes of the range that are there, those before its start included."""

    @property
    def complete(self) -> bool:
        return self.landed == self.size

    def go_on(self, now: float, scale: float) -> None:
        if now > self.began:
            self._sent += self.rate * scale * STEP_S
            whole = (self._sent // self.burst + 1) * self.burst
            self.landed = min(self.start + int(whole), self.size)


class StragglingLoad:
    """A load of `size` bytes.

    Args:
        seed: decides which answers are slow, and how much rates and latencies differ otherwise.
        slow: the part of answers that are slow.
        rate: bytes a second of a connection. One that is slow brings a tenth.
        whole: bytes a second of all together.
        latency: seconds of a round trip.
        burst: see `Answer`.
        limit: bytes held at once. The caller takes ranges in order.
        hedged: whether late ranges are asked for a second time.
        maximum: the most connections.
        uneven: how much rates differ otherwise, as a part.
    """

    def __init__(
        self,
        seed: int,
        slow: float,
        size: int = 2000 * MB,
        rate: float = 30 * MB,
        whole: float = 2000 * MB,
        latency: float = 0.01,
        burst: int = 1,
        limit: int | None = None,
        hedged: bool = True,
        maximum: int = 400,
        uneven: float = 0.1,
    ) -> None:
        self._random, self._slow, self._rate, self._uneven = random.Random(seed), slow, rate, uneven
        self._latency, self._burst, self._whole = latency, burst, whole
        self.now, self.fetched, self.asked = 0.0, 0, 0
        self.stalled = 0.0
        """Seconds that useful readers waited for memory, all together."""
        self.pace = ConnectionPace(16, maximum, 0.0)
        laggards: Laggards[int] = Laggards(HedgePolicy(held=64 << 20))
        firsts: dict[int, Answer] = {}
        seconds: dict[int, list[tuple[Late[int], Answer]]] = {}
        begun: dict[int, float] = {}
        sizes: dict[int, int] = {}
        left, came, taken, held, number, looks = size, 0, 0, 0, 0, 0.0
        while came < size:
            while left and len(firsts) < self.pace.readers:
                length = min(left, READ, HUGE_PAGE if number < self.pace.short else self.pace.largest_of(left) or READ)
                if limit is not None and held + length > limit:
                    self.stalled += (self.pace.readers - len(firsts)) * STEP_S
                    break
                firsts[number] = self._answer(length, 0)
                sizes[number], begun[number] = length, self.now
                laggards.begin(number, length, self.now)
                left, held, number = left - length, held + length, number + 1
            self.now += STEP_S
            answers = [*firsts.values(), *(second for each in seconds.values() for _, second in each)]
            wanted = sum(each.rate for each in answers if self.now > each.began)
            scale = min(1.0, self._whole / max(wanted, 1.0))
            for each in answers:
                each.go_on(self.now, scale)
            for key, first in list(firsts.items()):
                if not first.complete and not any(second.complete for _, second in seconds.get(key, ())):
                    continue
                del firsts[key]
                came += first.size
                self.fetched += first.landed
                laggards.end(key, self.now, complete=first.complete, came=True)
                for late, second in seconds.pop(key, ()):
                    brought = second.landed - late.landed
                    laggards.forget(late, first.landed - late.landed if second.complete else brought)
                    self.fetched += brought
                self.pace.landed(first.size, self.now - begun[key], self.now)
            while taken < number and taken not in firsts:
                held -= sizes[taken]
                taken += 1
            if hedged and self.now >= looks:
                looks = self.now + HedgePolicy().tick
                for late in laggards.find(self.now, lambda key: firsts[key].landed):
                    self.asked += 1
                    second = self._answer(firsts[late.key].size, late.landed, new=True)
                    seconds.setdefault(late.key, []).append((late, second))

    def _answer(self, size: int, start: int, new: bool = False) -> Answer:
        each = self._rate * self._random.uniform(1 - self._uneven, 1 + self._uneven)
        each *= 0.1 if self._random.random() < self._slow else 1.0
        latency = self._latency * self._random.uniform(0.5, 1.5) * (2 if new else 1)
        return Answer(size, start, self.now + latency, each, self._burst)
