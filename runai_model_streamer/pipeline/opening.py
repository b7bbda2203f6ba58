"""Opens the files of a load and reads their headers: many at once where that means waiting, else one by one."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, Protocol, TypeVar

from runai_model_streamer.checkpoint.gc_pause import gc_paused
from runai_model_streamer.checkpoint.header import Opened, read_header
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.io.source import Source
from runai_model_streamer.threads.crew import Crew
from runai_model_streamer.threads.signals import LOOK_SECONDS

_S = TypeVar("_S", bound=Source)
_S_co = TypeVar("_S_co", bound=Source, covariant=True)
_T = TypeVar("_T")

LONG_WAIT: Final = 1e-3
"""Seconds of waiting for one file after which the rest are opened at once: network and FUSE mounts, a cold disk.

163 files that each take 2 ms to open then take 420 ms instead of 1080. Threads for files without a wait would take
turns with the GIL: 345 ms instead of 230 (benchmarks/RUNS.md).
"""

JOIN_SECONDS: Final = 1.0
"""Seconds that a failed opening waits for others in flight at most. One that lasts longer is closed when it ends."""


def off_cpu() -> float:
    """Return the seconds that this thread has spent off the CPU, from any moment on."""
    return time.perf_counter() - time.thread_time()


class OpeningPolicy(NamedTuple):
    """When files are opened at once, and how long a failed opening waits for others."""

    long_wait: float = LONG_WAIT
    join_seconds: float = JOIN_SECONDS
    clock: Callable[[], float] = off_cpu
    """Tells how long the thread has waited."""


USUAL: Final = OpeningPolicy()


class Opener(Protocol[_S_co]):
    """What opens the files: `io.storage.Storage`, or something in front of it."""

    def open(self, path: str) -> _S_co:
        """Open the source behind a path."""
        ...

    def interrupt(self) -> None:
        """Make openings in flight, and those to come, end soon. From any thread."""
        ...


def open_files(
    storage: Opener[Source], paths: Sequence[str], concurrency: int, policy: OpeningPolicy = USUAL
) -> list[Opened]:
    """Open every path and validate its header, before a byte of data is read; see `open_each`."""
    return open_each(storage, paths, concurrency, read_header, policy)


def open_each(
    storage: Opener[_S],
    paths: Sequence[str],
    concurrency: int,
    look: Callable[[Source], _T],
    policy: OpeningPolicy = USUAL,
) -> list[tuple[_S, _T]]:
    """Open every path.

    Objects are opened at once. Files are opened one by one, until one takes longer than `LONG_WAIT`; the rest are then
    opened at once. If the system gives fewer threads than wanted, those do the work.

    Args:
        storage: opens the sources.
        paths: the files and objects.
        concurrency: how many are opened at once, at most.
        look: reads what has to be known of each source, in the thread that opened it.
        policy: how long to wait.

    Returns:
        Each path's source, and what `look` found, in order. The caller closes the sources.

    Raises:
        StreamerError: the first error met; nothing is left open.
    """
    opened: dict[int, tuple[_S, _T]] = {}
    objects = [index for index, path in enumerate(paths) if is_object(path)]
    files = [index for index, path in enumerate(paths) if not is_object(path)]
    try:
        if len(objects) > 1:
            _open_concurrently(storage, paths, objects, look, opened, concurrency, policy)
        elif objects:
            opened[objects[0]] = _open(storage, paths[objects[0]], look)
        left = _open_one_by_one(storage, paths, files, look, opened, policy)
        if left:
            _open_concurrently(storage, paths, left, look, opened, concurrency, policy)
    except BaseException:
        for source, _ in opened.values():
            source.close()
        raise
    return [opened[index] for index in range(len(paths))]


def _open(storage: Opener[_S], path: str, look: Callable[[Source], _T]) -> tuple[_S, _T]:
    source = storage.open(path)
    try:
        return source, look(source)
    except BaseException:
        source.close()
        raise


def _open_one_by_one(
    storage: Opener[_S],
    paths: Sequence[str],
    indices: Sequence[int],
    look: Callable[[Source], _T],
    opened: dict[int, tuple[_S, _T]],
    policy: OpeningPolicy,
) -> Sequence[int]:
    """Open the files until one takes long. Returns those that are left, if there are several."""
    with gc_paused():
        for done, index in enumerate(indices, 1):
            began = policy.clock()
            opened[index] = _open(storage, paths[index], look)
            if policy.clock() - began > policy.long_wait and len(indices) - done > 1:
                return indices[done:]
    return ()


def _open_concurrently(
    storage: Opener[_S],
    paths: Sequence[str],
    indices: Sequence[int],
    look: Callable[[Source], _T],
    opened: dict[int, tuple[_S, _T]],
    concurrency: int,
    policy: OpeningPolicy,
) -> None:
    waiting: SimpleQueue[int] = SimpleQueue()
    results: SimpleQueue[tuple[int, tuple[_S, _T] | BaseException]] = SimpleQueue()
    abandoned = threading.Event()
    for index in indices:
        waiting.put(index)

    def work() -> None:
        for index in _drain(waiting):
            try:
                result = _open(storage, paths[index], look)
            except BaseException as error:
                results.put((index, error))
            else:
                if abandoned.is_set():
                    result[0].close()
                else:
                    results.put((index, result))

    crew = Crew("opener", "open")
    try:
        for _ in range(min(concurrency, len(indices))):
            if not crew.add(work):
                break
        for _ in indices:
            index, result = _next_of(results)
            if isinstance(result, BaseException):
                raise result
            opened[index] = result
    except BaseException:
        abandoned.set()
        for _ in _drain(waiting):
            pass
        storage.interrupt()
        raise
    finally:
        crew.join(policy.join_seconds)
        for _, left in _drain(results):
            if not isinstance(left, BaseException):
                left[0].close()


def _next_of(queue: "SimpleQueue[_T]") -> _T:
    """Wait for the next item, and let Ctrl-C end that."""
    while True:
        try:
            return queue.get(timeout=LOOK_SECONDS)
        except Empty:  # not contextlib.suppress: a Ctrl-C would be raised inside it, and show both
            pass


def _drain(queue: "SimpleQueue[_T]") -> Iterator[_T]:
    """Yield what is in the queue, until it is empty."""
    while True:
        try:
            item = queue.get_nowait()
        except Empty:
            return
        yield item
