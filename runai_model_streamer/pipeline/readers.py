"""Reader threads: take the next step in plan order, read it, say that it has landed."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic

from runai_model_streamer.errors import ChecksumError, ReadError, StreamerError
from runai_model_streamer.io.source import Origin, Source, SourceKind
from runai_model_streamer.pipeline.landing import Landing, LeaseT, Reading
from runai_model_streamer.pipeline.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.plan import Group, PlannedFile, Step, steps_of
from runai_model_streamer.pipeline.reader_tally import ReaderTally
from runai_model_streamer.pipeline.tally import Tally
from runai_model_streamer.pipeline.waiting import WaitClock

MEMORY_SPEED: Final = 1.5e9
"""Bytes per second of one read above which it was a copy from memory, where the source cannot tell."""

MEMORY_LATENCY: Final = 100e-6
"""Seconds that such a copy takes beside, however short it is; a local SSD takes about as long to begin."""


class Feed(Generic[LeaseT]):
    """Hands out the steps of a plan, in order, and counts them in.

    Memory for a group is leased here, by the reader that takes its first step, while the others wait for their turn:
    so leases are granted in plan order, and no reader holds a connection while it waits for memory.

    Copies from the page cache keep a CPU busy each, and more of them than CPUs only get in each other's way (16
    threads on 2 CPUs: 8 GB/s, 2 threads: 13 GB/s, since a thread is suspended while it holds the GIL). So readers
    beyond the number of CPUs rest while reads are such copies, and join in at the first that waits for storage.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        files: Sequence[PlannedFile],
        landing: Landing[LeaseT],
        lifecycle: Lifecycle,
        tally: Tally | None = None,
    ) -> None:
        self.tally = Tally() if tally is None else tally
        """Where readers count."""
        self._files = files
        self._landing = landing
        self._lifecycle = lifecycle
        self._turn = threading.Lock()
        self._steps: Iterator[tuple[LeaseT, Step]] = self._all_steps(groups)
        self._counting = threading.Lock()
        self._missing = [group.steps for group in groups]
        self._complete = [not group.steps for group in groups]
        self.leases: dict[int, LeaseT] = {}
        """Group index -> lease, from the first step taken until the consumer takes the group."""
        self._cpus = len(os.sched_getaffinity(0))
        self._resting = threading.Condition()
        self._storage_bound = any(file.kind is SourceKind.OBJECT for file in files)
        self._copies = 0
        self._exhausted = False
        lifecycle.on_stop(self._wake_all)

    def _all_steps(self, groups: Sequence[Group]) -> Iterator[tuple[LeaseT, Step]]:
        for group in groups:
            if group.steps:
                lease = self._landing.lease(group, self._storage_bound)
                self.leases[group.index] = lease
                for step in steps_of(group, self._files):
                    yield lease, step

    def next(self, reader: int, tally: ReaderTally | None = None) -> tuple[LeaseT, Step] | None:
        """The next step for reader number `reader`, whose tally this is; None when there are no more.

        Raises:
            Stopped: the load has ended meanwhile.
        """
        if reader >= self._cpus:
            with self._resting:
                while not self._storage_bound and self._lifecycle.running and not self._exhausted:
                    self._resting.wait()
            if tally is not None:
                tally.rested()
        with self._turn:
            self._lifecycle.check()
            work = next(self._steps, None)
        if work is None and not self._exhausted:
            self._exhausted = True
            self._wake_all()
        if tally is not None:
            tally.took()
        return work

    def has_work_for(self, reader: int) -> bool:
        """Whether that reader would not rest now."""
        return (reader < self._cpus or self._storage_bound) and not self._exhausted

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes; see `Landing.read`."""
        return self._landing.read(lease, step, source)

    @property
    def waits(self) -> WaitClock:
        """See `Landing.waits`."""
        return self._landing.waits

    @property
    def beside(self) -> str | None:
        """See `Landing.beside`."""
        return self._landing.beside

    def landed(self, lease: LeaseT, step: Step, origin: Origin, seconds: float) -> None:
        """The step's bytes have been read."""
        index = lease.group.index
        with self._counting:
            self._missing[index] -= 1
            last = not self._missing[index]
        if last:
            self._landing.ready(lease)
            # Not before it is ready: the consumer looks without being told.
            self._complete[index] = True
            self._lifecycle.notify()
        self._adapt(origin, step.length, seconds)

    def is_complete(self, index: int) -> bool:
        """Whether all steps of the group have landed, and it may be taken."""
        return self._complete[index]

    def close(self) -> None:
        """Let go of the memory of groups that nobody took."""
        self.leases.clear()
        self._steps = iter(())

    def _adapt(self, origin: Origin, length: int, seconds: float) -> None:
        copied = origin is Origin.PAGE_CACHE or (
            origin is Origin.BUFFERED and seconds < MEMORY_LATENCY + length / MEMORY_SPEED
        )
        if not copied:
            self._copies = 0
            if not self._storage_bound:
                self._storage_bound = True
                self._wake_all()
        elif self._storage_bound:
            # Races between readers lose a count at worst; a few copies in a row are enough to tell.
            self._copies += 1
            if self._copies > 2 * self._cpus:
                self._storage_bound = False

    def _wake_all(self) -> None:
        with self._resting:
            self._resting.notify_all()


class Readers:
    """The threads that read all of `feed`, and end by themselves; `start` starts one, which starts the others.

    As long as reads are copies from memory there are no more than CPUs: a thread that would only rest is not started,
    until a read waits for storage.

    Readers hold no reference to the streamer, so that one that is dropped without `close` is collected. Where the
    system gives fewer threads, those have to do.

    Args:
        count: of threads, at most.
        feed: what is to be read.
        sources: of the plan's files.
        lifecycle: of the load; none is started when it has ended.
        left: told by a thread that ends before all is read of the error that it ends for, before anybody else is; None
            where the load has ended.
    """

    def __init__(
        self,
        count: int,
        feed: Feed[Any],
        sources: Sequence[Source],
        lifecycle: Lifecycle,
        left: Callable[[StreamerError | None], None] = lambda _: None,
    ) -> None:
        self.threads: list[threading.Thread] = []
        self._count = count
        self._feed = feed
        self._sources = sources
        self._lifecycle = lifecycle
        self._left = left
        self._starting = threading.Lock()
        self._numbered = 0

    def start(self) -> None:
        """Start to read, once.

        Raises:
            StreamerError: the system gives no thread.
        """
        if self._count:
            self._start()

    def grow(self) -> bool:
        """Start those that there is work for, unless another thread is at it; whether there was any."""
        if not self._has_work_for_more() or not self._starting.acquire(blocking=False):
            return False
        try:
            while self._has_work_for_more():
                self._start()
        finally:
            self._starting.release()
        return True

    def _has_work_for_more(self) -> bool:
        number = self._numbered
        return number < self._count and self._feed.has_work_for(number) and self._lifecycle.running

    def _start(self) -> None:
        number = self._numbered
        self._numbered += 1  # before the thread looks
        tally = self._feed.tally.reader(self._feed.waits)
        # Daemons: a read that hangs in the kernel must not keep the process from ending.
        thread = threading.Thread(target=self._run, args=(number, tally), name=f"runai-reader-{number}", daemon=True)
        self.threads.append(thread)  # before it runs: a Ctrl-C may come while it is started
        try:
            thread.start()
        except RuntimeError as error:
            self.threads.remove(thread)
            self._feed.tally.readers.remove(tally)
            self._count = number
            if not number:
                raise StreamerError(f"no thread to read with: {error}; raise the limit with `ulimit -u`") from error

    def join(self, seconds: float) -> list[str]:
        """Wait until all have ended, but no longer than that; the names of those that have not."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:  # one that has been joined has added those that it started
            if thread.is_alive():
                thread.join(max(deadline - time.monotonic(), 0))
        # `is_alive` is False of one whose join was cut short by a Ctrl-C: Python 3.11 and 3.12 take it for ended.
        alive = threading.enumerate()
        return [thread.name for thread in self.threads if thread in alive]

    def _run(self, number: int, tally: ReaderTally) -> None:
        stopped = False
        try:
            self.grow()
            tally.begin(self._feed.tally.trace)
            while (work := self._feed.next(number, tally)) is not None:
                _read(self._feed, *work, self._sources, tally)
                if self.grow():
                    tally.mark()
        except Stopped:
            stopped = True
        except StreamerError as error:
            self._left(error)
            self._lifecycle.fail(error)
        except BaseException as error:
            wrapped = StreamerError(f"reading failed unexpectedly: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._left(wrapped)
            self._lifecycle.fail(wrapped)
        finally:
            tally.end()
        if stopped:
            self._left(None)


def _read(feed: Feed[LeaseT], lease: LeaseT, step: Step, sources: Sequence[Source], tally: ReaderTally) -> None:
    try:
        reading = feed.read(lease, step, sources[step.file])
    except ChecksumError:
        raise  # of the whole object, not of these tensors
    except ReadError as error:
        _name_tensor(error, lease.group, step)
        raise
    tally.read(lease.group.index, step, reading, feed.beside)
    feed.landed(lease, step, reading.origin, reading.seconds)


def _name_tensor(error: ReadError, group: Group, step: Step) -> None:
    """Say in the message which tensors the failed read was for."""
    end = step.offset + step.length
    names = [
        tensor.name
        for part in group.parts
        if part.file == step.file
        for tensor in part.tensors
        if max(tensor.start, step.offset) < min(tensor.end, end)
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        error.args = (f"{error.args[0]} (while reading tensor {names[0]!r}{more})", *error.args[1:])
