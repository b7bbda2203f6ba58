"""One load: its sources, plan, memory and readers; the iterator over its tensors; its end."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, Final, NoReturn, TypeAlias, cast

import torch

from runai_model_streamer.checkpoint.tensor_info import nbytes_of
from runai_model_streamer.errors import StateError, StreamerError
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.connections import ConnectionPace
from runai_model_streamer.pipeline.feed import Feed
from runai_model_streamer.pipeline.landing.destination import Destination
from runai_model_streamer.pipeline.landing.protocol import Landing
from runai_model_streamer.pipeline.landing.tensors import Tensors, map_code
from runai_model_streamer.pipeline.pace import Pace
from runai_model_streamer.pipeline.plan.groups import Group, steps_of
from runai_model_streamer.pipeline.readers import Readers
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.threads.forks import OwnProcess

_log = logging.getLogger(__name__)

JOIN_SECONDS: Final = 0.5
"""Seconds that closing waits for readers at most. A reader that hangs longer keeps its memory, and ends by itself."""


Finish: TypeAlias = Callable[[Tensors], Tensors]
"""Wraps an iterator in another one, which reads it to its end and closes it."""


class Load:
    """Reads tensors in the background, from `start` on.

    It owns the sources, the storage's connections, the reader threads and the memory. Every end goes through `close`,
    which releases them: the last tensor, an error, an abandoned iterator, Ctrl-C.

    Args:
        storage: what the sources were opened from.
        sources: one for each of the destination's files; the same source may be behind several.
        destination: what to read, in which groups, and where it lands.
        concurrency: reads in flight at once.
        finishing: make what the caller gets out of what lands, one after the other.
        tally: where the load is counted and timed.
        join_seconds: how long `close` waits for readers, at most.
        connections: finds the number of useful readers of objects; None where there are none, or where ranks share.

    Raises:
        StreamerError: the destination cannot be used. The sources are not closed.
    """

    def __init__(
        self,
        storage: Storage,
        sources: Sequence[Source],
        destination: Destination,
        concurrency: int,
        finishing: Sequence[Finish] = (),
        tally: Tally | None = None,
        join_seconds: float = JOIN_SECONDS,
        connections: ConnectionPace | None = None,
    ) -> None:
        self._storage = storage
        self._sources = sources
        self._finishing = finishing
        self._join_seconds = join_seconds
        self._lifecycle = Lifecycle()
        self.tally = Tally() if tally is None else tally
        """Where the load is counted and timed."""
        files = destination.files
        self.tally.concurrency, self.tally.limit = concurrency, destination.limit
        self.tally.chunk = max((file.chunk for file in files), default=0)
        self.device = destination.device
        """Where the tensors are."""
        self._groups = destination.groups
        self._landing: Landing[Any] = destination.make_landing(self._lifecycle, self._groups)
        first = next((step for group in self._groups for step in steps_of(group, files)), None)
        origin = Origin.BUFFERED if first is None else sources[first.file].origin(first.offset, first.length)
        streams = max((source.streams or concurrency for source in sources), default=concurrency)
        self._connections = connections
        pace = Pace(streams, concurrency, time.perf_counter()) if connections is None else connections
        self.tally.first_concurrency = pace.readers
        self._feed = Feed(self._groups, files, self._landing, self._lifecycle, self.tally, origin, pace)
        self.progress: Callable[[], object] | None = None
        """Called in the caller's thread whenever the caller has all tensors of a group, and at the end."""
        self._taken = False
        self._closed = False
        self._connected = 0.0  # thread-seconds of connections made before reads began
        self._process = OwnProcess()
        self.total_bytes = sum(nbytes_of(file.tensors) for file in files)
        """Bytes of all tensors that land."""
        steps = sum(group.steps for group in self._groups)
        self._readers = Readers(min(concurrency, steps), self._feed, sources, self._lifecycle, storage.reader_left)

    def start(self) -> None:
        """Start to read. To be called once.

        Raises:
            StreamerError: no thread can be started.
        """
        self._connected = self._storage.setup.connect_seconds
        self.tally.plan(self._groups)
        map_code()
        self._readers.start()
        self.tally.start()

    @property
    def open(self) -> bool:
        """Whether `close` has anything left to do."""
        return not self._closed

    def tensors(self) -> Tensors:
        """Yield every tensor with its name, in file order, as soon as its group has landed. To be called once.

        Raises:
            StateError: this method was called before.
            StreamerError: the first thing that went wrong; `next` raises it before anything wrong is yielded.
        """
        if self._taken:
            raise StateError(
                "get_tensors was called before for this load",
                remedy="go on with its iterator, or call stream_files again",
                sep=": ",
            )
        self._taken = True
        landed = self._yield_tensors()
        next(landed)  # Begin it: a generator that was never begun does not notice that it is dropped.
        return reduce(lambda tensors, finish: finish(tensors), self._finishing, landed)

    def _yield_tensors(self) -> Tensors:
        complete = False
        tally = self.tally
        try:
            yield cast(Any, None)  # taken by `tensors`
            for group in self._groups:
                tally.ask()
                first = True
                for batch in self._take(group):
                    if first:
                        tally.made(group, len(batch))
                    # Popped, so that no reference here outlives the caller's.
                    batch.reverse()
                    while batch:
                        yield batch.pop()
                        if first:
                            first = False
                            self._check_process()
                            self._landing.release(group.index)
                        if not self._lifecycle.running:
                            self._raise_stopped()
                tally.give(group)
                if group is not self._groups[-1]:
                    self._tell()
            self._tell()
            complete = True
        except StreamerError as error:
            if tally.outcome == "running":
                tally.fail(error)
            self._close_quietly()
            raise
        finally:
            if complete:
                tally.end("complete")
                try:
                    self.close()
                except StreamerError as error:
                    tally.fail(error)
                    raise
            else:
                tally.end("abandoned")
                # This may be a finaliser, in any thread: do not wait here. `close` does.
                self.stop()

    def _tell(self) -> None:
        """Call `progress`. What it raises ends the load."""
        if self.progress is None:
            return
        try:
            self.progress()
        except BaseException as error:
            self.tally.fail(error)
            self._close_quietly()
            raise

    def _take(self, group: Group) -> Iterator[list[tuple[str, torch.Tensor]]]:
        self._check_process()
        if not group.steps:
            self.tally.landed()
            return self._landing.take(group, None)
        self._wait_for(group)
        self.tally.landed()
        return self._landing.take(group, self._feed.leases.pop(group.index))

    def _wait_for(self, group: Group) -> None:
        if not self._feed.is_complete(group.index):
            self.tally.wait()
            self._landing.await_group(group.index)
        try:
            self._feed.wait_for(group.index)
        except Stopped:
            stopped = True
        else:
            stopped = False
        if stopped:  # outside the handler: else the error would have `Stopped` as its context
            self._raise_stopped()

    def _raise_stopped(self) -> NoReturn:
        closing = self._close_quietly()  # first: running readers have frames that keep what the error refers to
        error = self._lifecycle.forget_error() or closing
        if error is None:
            raise StateError("the load was closed while its tensors were being read", remedy="call stream_files again")
        self.tally.fail(error)
        try:
            raise error
        finally:
            # Its traceback leads here. The cycle would keep all that the caller's frames hold, until gc runs.
            del error, closing

    def _close_quietly(self) -> StreamerError | None:
        """Close after an error, which is the one to raise. Returns the error that closing itself ended in."""
        try:
            self.close()
        except StreamerError as error:
            _log.warning("while closing a load that had ended early: %s", error)
            return error
        return None

    def _check_process(self) -> None:
        if self._process.forked:
            raise StateError(
                "this load was started before a fork; its readers are the parent's",
                remedy="start a new one here",
                sep=": ",
            )

    def stop(self) -> None:
        """Tell the readers to end, without waiting for them."""
        if not self._process.forked:  # in a forked child, a thread that does not exist may hold a lock
            self._lifecycle.close()

    def close(self) -> None:
        """Stop, wake, join, release memory, close sources, in this order. Idempotent.

        Tensors that the caller has remain the caller's.

        Raises:
            StreamerError: work on a device failed, or memory there could not be released. Everything else was done.
        """
        if self._closed:
            return
        self._closed = True
        if self._process.forked:
            return
        try:
            self._lifecycle.close()
            self.progress = None
            self.tally.end("abandoned")
            self.tally.closing()
            self._storage.interrupt()
            for source in self._sources:
                source.interrupt()
            self._readers.join(self._join_seconds)
        finally:  # all of it, even if a Ctrl-C cut the above short
            stuck = self._readers.join(0)
            try:
                self._landing.close()
            finally:
                if stuck:
                    # A stuck reader uses its source and its memory until its read ends.
                    _log.warning("%s still waits for a read; it ends by itself when the read does", ", ".join(stuck))
                else:
                    for source in self._sources:
                        source.close()
                self._feed.close()
                self.count()
                self.tally.count_shared = None  # it leads to the memory that ranks share
                self._storage.close()
                self.tally.closed()
                if self.tally.trace is not None:
                    self.tally.trace.write([source.path for source in self._sources])

    def count(self) -> None:
        """Copy what the landing and the storage count into the tally."""
        self.tally.peak = self._landing.peak
        self.tally.ways = dict(Counter(source.way for source in self._sources if source.way is not None))
        self.tally.retries, self.tally.transport = self._storage.retries, self._storage.transport
        self.tally.cached = self._storage.cached
        self.tally.setup = self._storage.setup.seconds
        self.tally.connecting = self._storage.setup.connect_seconds - self._connected
        if self._connections is not None:
            self.tally.connections, self.tally.held_by = self._connections.history, self._connections.held.value
        if self.tally.count_shared is not None:
            self.tally.shared = self.tally.count_shared()
