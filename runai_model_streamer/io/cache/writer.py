"""Writes pieces to the cache behind the readers, from copies in a bounded number of buffers."""

import contextlib
import mmap
import threading
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.cache.entry import Entry
from runai_model_streamer.io.cache.policy import CachePolicy
from runai_model_streamer.io.cache.trouble import Trouble
from runai_model_streamer.io.cache_counts import Counter
from runai_model_streamer.ranges import PAGE
from runai_model_streamer.threads.crew import Crew


class _Job(NamedTuple):
    entry: Entry
    start: int
    size: int
    buffer: memoryview


class Writer:
    """The threads and buffers of one load. Thread safe.

    A piece that finds no buffer free goes to the page cache at once, in the thread that has fetched it, as long as such
    threads spend only a part of their time on the cache. When the kernel makes them wait for the disk, that is soon
    over, and pieces are left out, so that the network does not wait, too. They are always written if others on this
    node use the object at the same time: those would have to fetch them again.

    Args:
        policy: how many buffers and threads.
        counter: counts what is written, and what is left out.
        trouble: told when a write fails. After that nothing is written.
    """

    def __init__(self, policy: CachePolicy, counter: Counter, trouble: Trouble) -> None:
        self._policy = policy
        self._counter = counter
        self._trouble = trouble
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._memory: memoryview | None = None
        self._free: list[memoryview] = []  # the last one in use comes first: its pages are there
        self._made = 0
        self._idle = 0
        self._spare = 0.0  # seconds that the threads that fetch may still spend on the cache
        self._closed = False
        self._crew = Crew("cache", "write the cache")

    @property
    def writes(self) -> bool:
        """Whether pieces are still written."""
        return self._trouble.why is None and not self._closed

    def put(self, entry: Entry, start: int, view: memoryview, seconds: float) -> None:
        """Write a piece of at most `policy.piece` bytes now or soon, or leave it out. After that its range is unlocked.

        Args:
            entry: where to write it.
            start: its first byte.
            view: its bytes; no reference is kept.
            seconds: how long it took to fetch them.
        """
        began = time.perf_counter()
        buffer = self._take() if self.writes else None
        if buffer is None:
            overflows = self.writes and (entry.shared or self._spare >= 0.0)
            self._write(entry, start, view, overflows, buffered=True)
        else:
            # numpy copies without the GIL.
            np.copyto(np.frombuffer(buffer, np.uint8, len(view), start % PAGE), np.frombuffer(view, np.uint8))
            self._enqueue(_Job(entry.use(), start, len(view), buffer))
        with self._changed:
            self._spare += self._policy.overflow * seconds - (time.perf_counter() - began)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
            if not self._idle and len(self._crew.threads) < self._policy.threads:
                self._add_thread()

    def _add_thread(self) -> None:
        try:
            self._crew.add(self._run)
        except StreamerError as error:
            self._trouble.report(str(error))
            for job in self._jobs:
                job.entry.release(job.start, job.start + job.size)
                job.entry.close()
            self._jobs.clear()

    def _take(self) -> memoryview | None:
        """Return a free buffer; None if there is none."""
        with self._changed:
            if self._free:
                return self._free.pop()
            if self._made == self._policy.buffers:
                return None
            size = self._policy.piece + PAGE
            if self._memory is None:
                memory = mmap.mmap(-1, self._policy.buffers * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                with contextlib.suppress(OSError):  # a kernel without huge pages
                    memory.madvise(mmap.MADV_HUGEPAGE)
                self._memory = memoryview(memory)
            self._made += 1
            return self._memory[(self._made - 1) * size : self._made * size]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._jobs or self._closed)
                self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            shift, wanted = job.start % PAGE, self._trouble.why is None
            self._write(job.entry, job.start, job.buffer[shift : shift + job.size], wanted)
            job.entry.close()
            with self._changed:
                self._free.append(job.buffer)
                self._changed.notify_all()

    def _write(self, entry: Entry, start: int, view: memoryview, wanted: bool, *, buffered: bool = False) -> None:
        """Write a piece now, if `wanted`. Count it, and unlock its range."""
        written = no_room = False
        try:
            written = wanted and entry.write(start, view, buffered=buffered)
            no_room = wanted and not written
        except OSError as error:
            self._trouble.cannot_write(error)
        size = len(view)
        self._counter.add(written=written * size, left_out=(not written) * size, no_room=no_room * size)
        entry.release(start, start + len(view))

    def close(self, seconds: float) -> None:
        """End the threads once they have written what waits. Wait at most `seconds` for that. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._crew.join(seconds)
