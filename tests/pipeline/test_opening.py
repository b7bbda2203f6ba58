import gc
import threading
from collections.abc import Collection, Mapping

import pytest

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import HeaderError, InterruptedReadError, NotFoundError, StreamerError
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import OpeningPolicy, open_files
from tests.checkpoints import PATIENCE, encode, join_ours, numbered
from tests.sources import MemorySource


def collects() -> bool:
    """Whether the garbage collector starts by itself."""
    return gc.isenabled() and gc.get_threshold()[0] > 0


class MemoryStorage(Storage):
    """Objects and files in memory; records what was opened, and by which thread."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        super().__init__(LoadConfig(), None, shared=False)
        self._stored = stored
        self.opened: dict[str, MemorySource] = {}
        self.threads: dict[str, str] = {}
        self.interrupted = threading.Event()

    def open(self, path: str) -> Source:
        self.threads[path] = threading.current_thread().name
        if path not in self._stored:
            raise NotFoundError(f"{path}: no such object")
        self.opened[path] = MemorySource(path, self._stored[path], kind=SourceKind.OBJECT)
        return self.opened[path]

    def interrupt(self) -> None:
        self.interrupted.set()
        super().interrupt()


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def objects(count: int) -> dict[str, bytes]:
    return {f"s3://bucket/{index}": encode(numbered([index + 1], f"{index}.")) for index in range(count)}


def left_open(storage: MemoryStorage) -> list[str]:
    return [path for path, source in storage.opened.items() if source.closed != 1]


@pytest.mark.parametrize("concurrency", [1, 3, 100])
def test_sources_and_headers_come_in_the_order_of_the_paths(concurrency: int) -> None:
    storage = MemoryStorage(objects(20))
    paths = sorted(objects(20), reverse=True)
    opened = open_files(storage, paths, concurrency)
    assert [source.path for source, _ in opened] == paths
    assert [header.tensors[0].name.partition(".")[0] for _, header in opened] == [path[12:] for path in paths]


def test_opened_sources_are_left_open() -> None:
    storage = MemoryStorage(objects(3))
    open_files(storage, list(objects(3)), 2)
    assert sorted(left_open(storage)) == sorted(objects(3))


def test_nothing_is_opened_for_no_paths() -> None:
    assert open_files(MemoryStorage({}), [], 8) == []


def test_the_same_path_may_be_given_twice() -> None:
    storage = MemoryStorage(objects(1))
    first, second = open_files(storage, ["s3://bucket/0", "s3://bucket/0"], 8)
    assert first[0] is not second[0]
    assert first[1] == second[1]


class MeetingStorage(MemoryStorage):
    """Opens an object only when as many as that are being opened at once."""

    def __init__(self, stored: Mapping[str, bytes], parties: int) -> None:
        super().__init__(stored)
        self.barrier = threading.Barrier(parties)

    def open(self, path: str) -> Source:
        self.barrier.wait(PATIENCE)
        return super().open(path)


def test_objects_are_opened_at_the_same_time() -> None:
    storage = MeetingStorage(objects(8), 4)
    assert len(open_files(storage, list(objects(8)), 4)) == 8


def test_no_more_objects_at_once_than_the_concurrency() -> None:
    storage = MemoryStorage(objects(30))
    open_files(storage, list(objects(30)), 3)
    assert set(storage.threads.values()) <= {"runai-opener-0", "runai-opener-1", "runai-opener-2"}


@pytest.mark.parametrize("paths", [["a", "b", "c"], ["s3://bucket/one"], ["a", "s3://bucket/one"]], ids=str)
def test_files_and_a_single_object_need_no_threads(paths: list[str]) -> None:
    storage = MemoryStorage({path: encode(numbered([1])) for path in paths})
    open_files(storage, paths, 8, OpeningPolicy(long_wait=PATIENCE))  # a busy machine may take a while
    assert set(storage.threads.values()) == {threading.current_thread().name}


class Clock:
    """The opener's clock: time passes when a test says so."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.policy = OpeningPolicy(clock=self.off_cpu)

    def off_cpu(self) -> float:
        return self.wall - self.cpu


class TimedStorage(MemoryStorage):
    """Files that take a second each to open: some waiting, the others computing.

    Behind one that waits, each waits until so many are being opened.
    """

    def __init__(self, clock: Clock, count: int, waiting: Collection[str], parties: int = 1) -> None:
        super().__init__({f"{index:02}": encode(numbered([1])) for index in range(count)})
        self.paths = list(self._stored)
        self._clock = clock
        self._waiting = waiting
        self._barrier = threading.Barrier(parties)
        self.collected: dict[str, bool] = {}
        """Whether the garbage collector was on while it was opened."""

    def open(self, path: str) -> Source:
        if threading.current_thread().name.startswith("runai-opener"):
            self._barrier.wait(PATIENCE)
        self.collected[path] = collects()
        self._clock.wall += 1
        if path not in self._waiting:
            self._clock.cpu += 1
        return super().open(path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def openers(count: int) -> set[str]:
    return {f"runai-opener-{number}" for number in range(count)}


@pytest.mark.parametrize("concurrency", [2, 16])
def test_files_are_opened_at_once_from_the_first_that_is_waited_for(clock: Clock, concurrency: int) -> None:
    storage = TimedStorage(clock, 2 + 32, ["01"], concurrency)
    opened = open_files(storage, storage.paths, concurrency, clock.policy)
    assert [source.path for source, _ in opened] == storage.paths
    here = threading.current_thread().name
    assert [path for path, thread in storage.threads.items() if thread == here] == ["00", "01"]
    assert set(storage.threads.values()) - {here} == openers(concurrency)


def test_files_that_are_merely_computed_with_need_no_threads(clock: Clock) -> None:
    storage = TimedStorage(clock, 8, [])
    open_files(storage, storage.paths, 8, clock.policy)
    assert set(storage.threads.values()) == {threading.current_thread().name}


def test_the_last_file_needs_no_thread_after_one_that_was_waited_for(clock: Clock) -> None:
    storage = TimedStorage(clock, 2, ["00", "01"])
    open_files(storage, storage.paths, 8, clock.policy)
    assert set(storage.threads.values()) == {threading.current_thread().name}


def test_the_garbage_collector_rests_until_a_file_is_waited_for(clock: Clock) -> None:
    storage = TimedStorage(clock, 6, ["02"])
    open_files(storage, storage.paths, 1, clock.policy)
    assert list(storage.collected.values()) == [False] * 3 + [True] * 3
    assert collects()


def test_the_garbage_collector_does_not_rest_for_an_object() -> None:
    class Observed(MemoryStorage):
        def open(self, path: str) -> Source:
            assert collects() == is_object(path)
            return super().open(path)

    open_files(Observed({path: encode(numbered([1])) for path in ("a", "s3://b/c")}), ["a", "s3://b/c"], 8)


# What goes wrong.


def test_a_file_that_is_missing_among_those_opened_at_once_closes_the_others(clock: Clock) -> None:
    storage = TimedStorage(clock, 8, ["00"])
    with pytest.raises(NotFoundError, match="missing: no such"):
        open_files(storage, [*storage.paths, "missing"], 8, clock.policy)
    assert left_open(storage) == []
    assert collects()


@pytest.mark.parametrize("missing", range(4))
def test_an_object_that_is_missing_closes_the_others(missing: int) -> None:
    stored = objects(4)
    paths = list(stored)
    del stored[paths[missing]]
    storage = MemoryStorage(stored)
    with pytest.raises(NotFoundError, match=paths[missing]):
        open_files(storage, paths, 2)
    assert left_open(storage) == []


def test_a_file_that_is_missing_closes_the_others() -> None:
    storage = MemoryStorage({"a": encode(numbered([1])), **objects(3)})
    with pytest.raises(NotFoundError, match="missing: no such"):
        open_files(storage, ["a", *objects(3), "missing"], 8)
    assert left_open(storage) == []


@pytest.mark.parametrize("paths", [["bad"], ["s3://bucket/bad", "s3://bucket/0"]], ids=str)
def test_a_source_whose_header_is_wrong_is_closed_too(paths: list[str]) -> None:
    storage = MemoryStorage({**objects(1), paths[0]: b"not safetensors at all"})
    with pytest.raises(HeaderError):
        open_files(storage, paths, 8)
    assert left_open(storage) == []


def test_an_error_that_comes_last_does_not_wait_for_openers_that_have_ended() -> None:
    # Each opener has found the queue empty and ended by the time that the error is seen.
    for _ in range(100):
        with pytest.raises(NotFoundError):
            open_files(MemoryStorage(objects(1)), ["s3://bucket/0", "s3://bucket/missing"], 8)


class SlowStorage(MemoryStorage):
    """The first object is opened only once the error of the second has been noticed."""

    def open(self, path: str) -> Source:
        source = super().open(path)
        assert self.interrupted.wait(PATIENCE)
        return source


def test_an_object_that_opens_after_the_error_is_closed() -> None:
    storage = SlowStorage(objects(1))
    with pytest.raises(NotFoundError):
        open_files(storage, ["s3://bucket/0", "s3://bucket/missing"], 8)
    assert list(storage.opened) == ["s3://bucket/0"]
    assert left_open(storage) == []


class LateStorage(MemoryStorage):
    """The first object is opened when nobody waits for it any more."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        super().__init__(stored)
        self.go = threading.Event()

    def open(self, path: str) -> Source:
        source = super().open(path)
        assert self.go.wait(PATIENCE)
        return source


def test_an_object_that_opens_when_nobody_waits_for_it_is_closed() -> None:
    storage = LateStorage(objects(1))
    with pytest.raises(NotFoundError):
        open_files(storage, ["s3://bucket/0", "s3://bucket/missing"], 8, OpeningPolicy(join_seconds=0))
    storage.go.set()
    join_ours()
    assert list(storage.opened) == ["s3://bucket/0"]
    assert left_open(storage) == []


class HangingStorage(MemoryStorage):
    """Openings hang until they are interrupted; the one of what is missing fails once `hanging` others do."""

    def __init__(self, stored: Mapping[str, bytes], hanging: int) -> None:
        super().__init__(stored)
        self._hanging = hanging
        self._arrived = threading.Semaphore(0)
        self.tried: list[str] = []

    def open(self, path: str) -> Source:
        self.tried.append(path)
        if path.endswith("missing"):
            for _ in range(self._hanging):
                assert self._arrived.acquire(timeout=PATIENCE)
            return super().open(path)
        self._arrived.release()
        assert self.interrupted.wait(PATIENCE)
        raise InterruptedReadError(f"{path}: the streamer is closing")


def test_an_error_interrupts_the_other_openings_and_is_the_one_raised() -> None:
    storage = HangingStorage(objects(2), 2)
    with pytest.raises(NotFoundError, match="missing"):
        open_files(storage, [*objects(2), "s3://bucket/missing"], 8)


def test_objects_that_wait_for_their_turn_are_not_opened_after_an_error() -> None:
    storage = HangingStorage(objects(20), 1)
    with pytest.raises(NotFoundError, match="missing"):
        open_files(storage, ["s3://bucket/missing", *objects(20)], 2)
    # The one that was missing, and at most one more of each opener.
    assert len(storage.tried) <= 3


class BrokenStorage(MemoryStorage):
    def open(self, path: str) -> Source:
        raise SystemExit("as a signal handler may")


def test_whatever_is_raised_in_an_opener_reaches_the_caller() -> None:
    with pytest.raises(SystemExit):
        open_files(BrokenStorage({}), ["s3://bucket/0", "s3://bucket/1"], 8)


def test_fewer_threads_than_wanted_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    give_threads(2, monkeypatch)
    storage = MemoryStorage(objects(20))
    assert len(open_files(storage, list(objects(20)), 8)) == 20
    assert set(storage.threads.values()) <= {"runai-opener-0", "runai-opener-1"}


def test_no_thread_at_all_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    give_threads(0, monkeypatch)
    with pytest.raises(StreamerError, match=r"no thread to open with: can't start new thread; .*ulimit -u"):
        open_files(MemoryStorage(objects(20)), list(objects(20)), 8)


def give_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system give no more threads than that."""
    start = threading.Thread.start
    started: list[str] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == count:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
