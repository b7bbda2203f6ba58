"""Reader threads. Each takes the next step in plan order, reads it and reports that it has landed."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import ChecksumError, ReadError, StreamerError
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.feed import Feed
from runai_model_streamer.pipeline.landing.protocol import LeaseT
from runai_model_streamer.pipeline.plan.groups import Step
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.threads.crew import Crew


class Readers:
    """The threads that read all of `feed` and then end. `start` starts one, which starts the others.

    While reads are copies from memory, there are no more readers than CPUs. A thread that would only rest is started
    when a read waits for storage.

    Readers hold no reference to the streamer, so a streamer that is dropped without `close` is collected. If the system
    refuses more threads, the load goes on with those it has.

    Args:
        count: the most threads.
        feed: hands out the reads.
        sources: the plan's files.
        lifecycle: the load's. After its end no thread is started.
        left: called by a thread that ends early, before the load learns of it: with the error, or None if the load has
            ended.
    """

    def __init__(
        self,
        count: int,
        feed: Feed[Any],
        sources: Sequence[Source],
        lifecycle: Lifecycle,
        left: Callable[[StreamerError | None], None] = lambda _: None,
    ) -> None:
        self._crew = Crew("reader", "read")
        self._count = count
        self._feed = feed
        self._sources = sources
        self._lifecycle = lifecycle
        self._left = left
        self._starting = threading.Lock()
        self._numbered = 0

    def start(self) -> None:
        """Start to read. Call it once.

        Raises:
            StreamerError: the system refuses the first thread.
        """
        if self._count:
            self._start()

    def grow(self, *, wait: bool = False) -> bool:
        """Start a thread if there is work for it. Return whether one was started.

        One is enough, since it starts the next before it reads. So the first reads do not wait until all have started.

        Args:
            wait: what to do if another thread is starting one: wait for that, or leave it to that one.
        """
        if not self._has_work_for_more() or not self._starting.acquire(blocking=wait):
            return False
        try:
            more = self._has_work_for_more()
            if more:
                self._start()
        finally:
            self._starting.release()
        return more

    def _has_work_for_more(self) -> bool:
        number = self._numbered
        return number < self._count and self._feed.has_work_for(number) and self._lifecycle.running

    def _start(self) -> None:
        number = self._numbered
        self._numbered += 1  # before the thread looks
        tally = self._feed.tally.reader(self._feed.waits)
        started = False
        try:
            started = self._crew.add(partial(self._run, number, tally))
        except StreamerError:
            self._feed.tally.readers.remove(tally)
            raise
        if not started:
            self._feed.tally.readers.remove(tally)
            self._count = number

    def join(self, seconds: float) -> list[str]:
        """Wait at most `seconds` for all threads to end. Return the names of those that have not."""
        return self._crew.join(seconds)

    @property
    def threads(self) -> Sequence[threading.Thread]:
        """The threads started so far."""
        return self._crew.threads

    def _run(self, number: int, tally: ReaderTally) -> None:
        stopped = False
        try:
            self.grow(wait=True)  # the thread that has started this one may be about to give the lock back
            tally.begin(self._feed.tally.trace)
            while self._read_next(number, tally):
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

    def _read_next(self, number: int, tally: ReaderTally) -> bool:
        """Read the next step, and keep no lease: a reader that waits would keep memory that the caller has dropped."""
        work = self._feed.next(number, tally)
        if work is None:
            return False
        _read(self._feed, *work, self._sources, tally)
        return True


def _read(feed: Feed[LeaseT], lease: LeaseT, step: Step, sources: Sequence[Source], tally: ReaderTally) -> None:
    try:
        reading = feed.read(lease, step, sources[step.file])
    except ChecksumError:
        raise  # concerns the whole object, not these tensors
    except ReadError as error:
        end = step.offset + step.length
        parts = [part for part in lease.group.parts if part.file == step.file]
        name_tensors(error, (tensor for part in parts for tensor in part.tensors), step.offset, end)
        raise
    tally.read(lease.group.index, step, reading, feed.extra_stage)
    feed.landed(lease, step, reading.origin, reading.seconds)


def name_tensors(error: ReadError, tensors: Iterable[TensorInfo], start: int, end: int) -> None:
    """Add to the error the tensors that the failed read of these bytes was for, unless it has them already."""
    names = [tensor.name for tensor in tensors if max(tensor.start, start) < min(tensor.end, end)]
    if names and error.tensor is None:
        error.while_reading(names)
