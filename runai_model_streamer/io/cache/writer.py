"""Writes to the cache what a load has fetched, as long as that costs the load little."""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from runai_model_streamer.io.cache.entry import Entry
from runai_model_streamer.io.cache.policy import CachePolicy
from runai_model_streamer.io.cache.trouble import Trouble
from runai_model_streamer.io.cache_counts import Counter
from runai_model_streamer.threads.times import times_of

_FIRST: Final = 1e-9
"""Seconds for a byte that a write is expected to take, before one was seen."""


class Spent(NamedTuple):
    """Seconds that a thread has spent, since any moment."""

    time: float
    cpu: float
    delay: float
    """Ready to run, but without a CPU; 0 if the kernel does not say."""

    def since(self, before: Self) -> "Spent":
        """Return what was spent since an earlier call."""
        return Spent(self.time - before.time, self.cpu - before.cpu, self.delay - before.delay)


def spent() -> Spent:
    """Return what the calling thread has spent so far."""
    times = times_of(threading.get_native_id())
    if times is None:
        return Spent(time.perf_counter(), time.thread_time(), 0.0)
    return Spent(time.perf_counter(), times.cpu, times.delay or 0.0)


class Writer:
    """Writes for one load, in the threads that have fetched, and from the memory that the bytes landed in. Thread safe.

    So nothing is copied, and no memory is taken. In return a connection rests meanwhile: a write past the page cache
    takes a twentieth as long as a connection takes to bring the bytes. Bytes are left out

    - once the threads have spent too much of their time on the cache: the disk is slower than the network;
    - once they have spent too much CPU time on it where they wait for CPUs: the load needs these.

    What is read from the cache instead saves both, and a part of that may be spent, too.

    They are always written if others on this node use the object at the same time, who would have to fetch them again.

    Args:
        policy: how much time.
        counter: counts what is written, and what is left out.
        trouble: told when a write fails. After that nothing is written.
        now: returns what the calling thread has spent so far.
    """

    def __init__(
        self, policy: CachePolicy, counter: Counter, trouble: Trouble, now: Callable[[], Spent] = spent
    ) -> None:
        self.now = now
        """Returns what the calling thread has spent so far; see `put`."""
        self._policy = policy
        self._counter = counter
        self._trouble = trouble
        self._lock = threading.Lock()
        self._free = policy.free
        self._time = self._cpu = 0.0  # seconds that the threads may still spend on the cache
        self._each = _FIRST
        self._bytes, self._reads = 0.0, Spent(0.0, 0.0, 0.0)  # what is longer ago counts less

    @property
    def writes(self) -> bool:
        """Whether anything is still written."""
        return self._trouble.why is None

    def put(self, entry: Entry, start: int, view: memoryview, before: Spent, *, always: bool = False) -> None:
        """Write what was fetched, or leave it out. After that its range is unlocked.

        Args:
            entry: where to write it.
            start: its first byte.
            view: its bytes.
            before: what the calling thread had spent when it began to fetch them.
            always: whether to write it whatever that takes.
        """
        began = self.now()
        affords, charged = self._charge(len(view), began.since(before))
        written = room = 0
        wanted = self.writes and (always or affords or entry.shared)
        try:
            if wanted:
                written = room = entry.write(start, view, self._policy.piece)
        except OSError as error:
            room = len(view)
            self._trouble.cannot_write(error)
        finally:
            entry.release(start, start + len(view))
        if wanted:
            self._settle(len(view), charged, self.now().since(began))
        no_room = (len(view) - room) * wanted
        self._counter.add(written=written, left_out=len(view) - written, no_room=no_room)

    def saved(self, size: int) -> None:
        """Note that so many bytes were read from the cache, so that they did not have to be fetched."""
        with self._lock:
            if self._bytes:
                part = self._policy.saved * size / self._bytes
                self._time += part * self._reads.time
                self._cpu += part * self._reads.cpu

    def _charge(self, size: int, fetch: Spent) -> tuple[bool, float]:
        """Note a read. Return whether there is time to write it, and what was charged for that.

        Threads whose reads end together would else all find time that only one of them has.
        """
        with self._lock:
            self._time += self._policy.wait * fetch.time
            self._bytes = 0.9 * self._bytes + size
            self._reads = Spent(*(0.9 * before + now for before, now in zip(self._reads, fetch, strict=True)))
            if self._reads.delay > self._policy.busy * self._reads.cpu:
                self._cpu += self._policy.cpu * fetch.cpu
            else:
                self._cpu = 0.0
            affords = self._free > 0 or (self._time >= 0.0 and self._cpu >= 0.0)
            charged = self._each * size * affords
            self._time -= charged
            self._free -= size
            return affords, charged

    def _settle(self, size: int, charged: float, took: Spent) -> None:
        with self._lock:
            self._time += charged - took.time
            self._cpu -= took.cpu
            self._each = 0.75 * self._each + 0.25 * took.time / size
