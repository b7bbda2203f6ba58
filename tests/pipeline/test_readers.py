import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

import pytest
import torch
from typing_extensions import override

from runai_model_streamer.errors import ReadError, SourceChangedError, StreamerError, TruncatedError
from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.feed import Feed
from runai_model_streamer.pipeline.landing.host import HostLanding
from runai_model_streamer.pipeline.memory.pool import SlabPool
from runai_model_streamer.pipeline.memory.slabs import Lease
from runai_model_streamer.pipeline.pace import Pace
from runai_model_streamer.pipeline.plan.groups import LARGE_BYTES, LARGEST_BYTES, Group, PlannedFile, Step, plan_groups
from runai_model_streamer.pipeline.readers import Readers
from tests.checkpoints import PATIENCE, infos
from tests.sources import MemorySource

CHUNK = 1000


class RecordingLanding(HostLanding):
    """A host landing that notes what it was asked for; `ready` can be held up."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        super().__init__(SlabPool(None, lifecycle))
        self.leased: list[int] = []
        self.hurries: list[bool] = []
        self.readied: list[int] = []
        self.on_ready: Callable[[], None] = lambda: None
        self.room = sys.maxsize
        """Bytes of reads in flight."""

    @override
    def reads_at_once(self, length: int) -> int:
        return self.room // length

    def lease(self, group: Group, storage_bound: bool) -> Lease:
        self.leased.append(group.index)
        self.hurries.append(storage_bound)
        return super().lease(group, storage_bound)

    def ready(self, lease: Lease) -> None:
        super().ready(lease)
        self.on_ready()
        self.readied.append(lease.group.index)

    def take(self, group: Group, lease: Lease | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        raise AssertionError("readers take nothing")


class Counting(Lifecycle):
    """A lifecycle that counts how often it wakes those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.notified = 0

    @override
    def notify(self) -> None:
        self.notified += 1
        super().notify()


def start_readers(count: int, feed: Feed[Lease], sources: Sequence[MemorySource], lifecycle: Lifecycle) -> Readers:
    readers = Readers(count, feed, sources, lifecycle)
    readers.start()
    return readers


class Work:
    """Some tensors of bytes in one file, and all that reads them."""

    def __init__(
        self,
        sizes: Sequence[int],
        kind: SourceKind = SourceKind.FILE,
        first: Origin = Origin.BUFFERED,
        large: int = 0,
        pace: Pace | None = None,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        tensors = infos(sizes, data_start=0)
        self.size = sum(sizes)
        self.files = [PlannedFile(self.size, kind, 1, CHUNK, tensors, large=large)]
        # A limit so small that each tensor is a group of its own.
        self.groups = list(plan_groups(self.files, limit=max(sizes)))
        self.lifecycle = Lifecycle() if lifecycle is None else lifecycle
        self.landing = RecordingLanding(self.lifecycle)
        self.feed = Feed(self.groups, self.files, self.landing, self.lifecycle, first=first, pace=pace)

    def take(self, reader: int = 0) -> tuple[Lease, Step]:
        work = self.feed.next(reader)
        assert work is not None
        return work

    def land(self, work: tuple[Lease, Step], origin: Origin = Origin.PAGE_CACHE, seconds: float = 0.0) -> None:
        self.feed.landed(*work, origin, seconds)

    def lengths(self, count: int) -> list[tuple[int, int]]:
        """Of the next steps: the group's index, and the bytes."""
        return [(lease.group.index, step.length) for lease, step in (self.take() for _ in range(count))]

    def read_all(self, source: MemorySource, count: int = 4) -> None:
        assert start_readers(count, self.feed, [source], self.lifecycle).join(PATIENCE) == []

    def error(self) -> BaseException | None:
        return self.lifecycle.forget_error()


@pytest.fixture
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def test_steps_are_handed_out_in_plan_order() -> None:
    work = Work([2500, 0, 1000])
    taken = [work.take() for _ in range(4)]
    assert [(lease.group.index, step.offset) for lease, step in taken] == [(0, 0), (0, 1000), (0, 2000), (1, 2500)]
    assert work.feed.next(0) is None


def test_every_reader_is_told_that_there_are_no_more_steps(one_cpu: None) -> None:
    work = Work([10])
    work.take()
    assert [work.feed.next(reader) for reader in (0, 1, 5)] == [None, None, None]


def test_memory_is_leased_with_the_first_step_of_a_group_not_before() -> None:
    work = Work([1500, 10])
    assert work.landing.leased == []
    work.take()
    work.take()
    assert work.landing.leased == [0]
    work.take()
    assert work.landing.leased == [0, 1]
    assert list(work.feed.leases) == [0, 1]


def test_many_readers_lease_in_plan_order() -> None:
    work = Work([1500] * 100)
    work.read_all(MemorySource("m", bytes(work.size)), count=16)
    assert work.landing.leased == list(range(100))


@pytest.mark.parametrize("large", [0, 4000])
def test_every_step_is_read_once_into_its_place(large: int) -> None:
    work = Work([4000, 1, 0, 999, 12_345], first=Origin.PAGE_CACHE, large=large)
    data = bytes(index * 7 % 251 for index in range(work.size))
    source = MemorySource("m", data)
    work.read_all(source)
    assert sorted(source.reads) == sorted(set(source.reads))
    assert sum(length for _, length in source.reads) == work.size
    for index, group in enumerate(work.groups):
        for part in group.parts:
            landed = work.feed.leases[index].memory[part.position : part.position + part.length]
            assert landed == data[part.offset : part.offset + part.length]


def test_a_group_is_complete_when_its_last_step_has_landed_in_whatever_order() -> None:
    work = Work([2500])
    steps = [work.take() for _ in range(3)]
    for step in reversed(steps):
        assert not work.feed.is_complete(0)
        work.land(step)
    assert work.feed.is_complete(0)


def test_a_group_that_lands_wakes_the_consumer_only_if_it_waits_for_that_one() -> None:
    lifecycle = Counting()
    work = Work([10, 10, 10], lifecycle=lifecycle)
    first, second, third = (work.take() for _ in range(3))
    consumer = threading.Thread(target=work.feed.wait_for, args=(1,), daemon=True)
    consumer.start()
    work.land(third)
    work.land(first)
    assert lifecycle.notified == 0
    work.land(second)
    consumer.join(PATIENCE)
    assert not consumer.is_alive()
    assert lifecycle.notified <= 1


def test_a_group_without_bytes_is_complete_from_the_start() -> None:
    files = [PlannedFile(0, SourceKind.FILE, 1, CHUNK, infos([0], data_start=0))]
    lifecycle = Lifecycle()
    fed = Feed(list(plan_groups(files)), files, RecordingLanding(lifecycle), lifecycle)
    assert fed.is_complete(0)
    assert fed.next(0) is None


def test_the_landing_readies_a_group_once_after_its_last_step() -> None:
    work = Work([1500, 10])
    steps = [work.take() for _ in range(3)]
    work.land(steps[2])
    work.land(steps[0])
    assert work.landing.readied == [1]
    work.land(steps[1])
    assert work.landing.readied == [1, 0]


def test_a_group_is_not_complete_before_the_landing_has_readied_it() -> None:
    work = Work([10])
    complete: list[bool] = []
    work.landing.on_ready = lambda: complete.append(work.feed.is_complete(0))
    work.land(work.take())
    assert complete == [False]
    assert work.feed.is_complete(0)


def test_no_step_is_handed_out_after_the_end() -> None:
    work = Work([1500])
    work.take()
    work.lifecycle.close()
    with pytest.raises(Stopped):
        work.feed.next(0)


def test_closing_the_feed_lets_go_of_memory_that_nobody_took() -> None:
    work = Work([1500])
    lease, _ = work.take()
    slab = lease.slab
    returned: list[bool] = []
    assert slab.root_ref is not None
    work.lifecycle.close()
    work.feed.close()
    del lease
    returned.append(slab.root_ref() is None)
    assert returned == [True]


# How many readers are at work.


class CopiedSource(MemorySource):
    """Says where its bytes came from, and notes which thread read them."""

    def __init__(self, size: int, origin: Origin) -> None:
        super().__init__("m", bytes(size))
        self.found = origin
        self.readers: set[str] = set()

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        super().read_into(offset, buffer)
        self.readers.add(threading.current_thread().name)
        return self.found


class MeetingSource(CopiedSource):
    """Reads behind the first wait until as many are in flight as the barrier wants."""

    def __init__(self, size: int, origin: Origin, parties: int, kind: SourceKind = SourceKind.FILE) -> None:
        super().__init__(size, origin)
        self.kind_read = kind
        self.barrier = threading.Barrier(parties)

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if offset or self.kind_read is SourceKind.OBJECT:
            self.barrier.wait(PATIENCE)
        return super().read_into(offset, buffer)


def test_copies_from_memory_are_made_by_no_more_readers_than_cpus(one_cpu: None) -> None:
    work = Work([100] * 150)
    source = CopiedSource(work.size, Origin.PAGE_CACHE)
    work.read_all(source, count=8)
    assert source.readers == {"runai-reader-0"}
    assert len(source.reads) == 150


def test_readers_that_would_only_rest_are_not_started(one_cpu: None) -> None:
    work = Work([100] * 150)
    readers = start_readers(8, work.feed, [CopiedSource(work.size, Origin.PAGE_CACHE)], work.lifecycle)
    assert readers.join(PATIENCE) == []
    assert len(readers.threads) == 1


class Noting(MemorySource):
    """Notes that the first reader has read, and waits in each read until `together` threads read."""

    def __init__(self, size: int, together: int = 1) -> None:
        super().__init__("m", bytes(size))
        self.first_has_read = threading.Event()
        self._all = threading.Barrier(together)

    @override
    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        self._all.wait(PATIENCE)
        if threading.current_thread().name == "runai-reader-0":
            self.first_has_read.set()
        super().read_into(offset, buffer)
        return Origin.DISK


def test_a_reader_does_not_wait_until_all_others_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work([10] * 8, first=Origin.DISK)
    source = Noting(work.size)
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        assert thread.name != "runai-reader-2" or source.first_has_read.wait(PATIENCE)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    work.read_all(source)
    assert work.error() is None


def test_each_reader_starts_the_next_before_it_reads() -> None:
    work = Work([10] * 16, first=Origin.DISK)
    work.read_all(Noting(work.size, together=8), count=8)
    assert work.error() is None


def test_no_reader_is_started_when_the_load_has_ended(one_cpu: None) -> None:
    work = Work([100] * 9)
    source = MeetingSource(work.size, Origin.DISK, parties=4)
    readers = start_readers(4, work.feed, [source], work.lifecycle)
    assert readers.join(PATIENCE) == []
    started = list(readers.threads)
    work.lifecycle.close()
    readers.grow()
    assert readers.threads == started


def test_the_others_join_in_when_a_read_waits_for_storage(one_cpu: None) -> None:
    work = Work([100] * 9)
    source = MeetingSource(work.size, Origin.DISK, parties=4)
    work.read_all(source, count=4)
    assert work.error() is None
    assert len(source.readers) == 4


def test_all_readers_of_objects_are_at_work_from_the_start(one_cpu: None) -> None:
    work = Work([100] * 8, SourceKind.OBJECT, Origin.OBJECT)
    source = MeetingSource(work.size, Origin.OBJECT, parties=4, kind=SourceKind.OBJECT)
    work.read_all(source, count=4)
    assert work.error() is None


@pytest.mark.parametrize(
    ("origin", "seconds"), [(Origin.DISK, 0.0), (Origin.OBJECT, 0.0), (Origin.BUFFERED, 10.0)], ids=str
)
def test_a_resting_reader_is_woken_by_a_read_that_waited(one_cpu: None, origin: Origin, seconds: float) -> None:
    work = Work([10, 10])
    got: SimpleQueue[tuple[Lease, Step] | None] = SimpleQueue()
    first = work.take()
    thread = threading.Thread(target=lambda: got.put(work.feed.next(1)), daemon=True)
    thread.start()
    work.land(first, origin, seconds)
    taken = got.get(timeout=PATIENCE)
    assert taken is not None
    assert taken[1].offset == 10


def test_a_short_buffered_read_is_no_wait_for_storage(one_cpu: None) -> None:
    work = Work([10, 10])
    work.land(work.take(), Origin.BUFFERED, seconds=50e-6)
    assert not work.feed.has_work_for(1)


def test_copies_from_memory_may_be_larger_than_a_chunk() -> None:
    work = Work([6500, 10], first=Origin.PAGE_CACHE, large=4000)
    first, second = work.take(), work.take()
    assert [first[1].length, second[1].length] == [4000, 2500]
    work.land(second)
    assert not work.feed.is_complete(0)
    work.land(first)
    assert work.feed.is_complete(0)


def test_reads_from_storage_are_of_a_chunk() -> None:
    work = Work([2500], first=Origin.DISK, large=4000)
    assert work.lengths(3) == [(0, 1000), (0, 1000), (0, 500)]


def test_reads_of_which_nobody_knows_are_of_a_chunk_until_one_was_a_copy() -> None:
    work = Work([1500, 6500], first=Origin.BUFFERED, large=4000)
    first = work.take()
    assert first[1].length == 1000
    work.land(first, Origin.BUFFERED)
    assert work.lengths(1) == [(0, 500)]
    assert work.take()[1].length > 1000


def test_groups_behind_a_read_that_waited_are_read_by_chunks() -> None:
    work = Work([6500, 1500], first=Origin.PAGE_CACHE, large=4000)
    work.land(work.take(), Origin.DISK)
    # They meet at multiples of a chunk in memory.
    assert work.lengths(3) == [(0, 2500), (1, 596), (1, 904)]


@pytest.mark.parametrize(
    ("gibibytes", "readers", "length"),
    [(20, 16, 128), (20, 1, 128), (20, 64, 32), (8, 16, 64), (4, 16, 32), (1, 1, 128)],
    ids=str,
)
def test_reads_of_a_fast_disk_grow_while_all_of_them_hold_little_of_what_is_left(
    gibibytes: int, readers: int, length: int
) -> None:
    pace = Pace(readers, readers, 0.0)
    pace.large = 1 << 40
    # Memory that no read touches costs nothing.
    work = Work([1 << 30] * gibibytes, first=Origin.DISK, large=LARGEST_BYTES, pace=pace)
    assert work.take()[1].length == length << 20


def test_copies_from_memory_do_not_grow_as_reads_of_a_fast_disk_do(one_cpu: None) -> None:
    work = Work([1 << 30] * 8, first=Origin.PAGE_CACHE, large=LARGEST_BYTES)
    assert work.take()[1].length == LARGE_BYTES


def grown(first: Origin, pieces: int) -> Work:
    """Work of 8 readers, whose reads may be of 32 MiB, with room for so many of them."""
    pace = Pace(8, 8, 0.0)
    pace.large = 1 << 40
    work = Work([1 << 30] * 2, first=first, large=LARGE_BYTES, pace=pace)
    work.landing.room = pieces * LARGE_BYTES
    return work


def test_no_more_readers_of_storage_are_useful_than_their_reads_have_room() -> None:
    work = grown(Origin.DISK, 3)
    assert work.feed.has_work_for(7)
    assert work.take()[1].length == LARGE_BYTES
    assert [work.feed.has_work_for(reader) for reader in (2, 3)] == [True, False]


def test_a_reader_that_rests_for_want_of_room_is_woken_when_there_is_more() -> None:
    work = grown(Origin.DISK, 3)
    for _ in range(32):  # all of the first group
        work.take()
    got: SimpleQueue[tuple[Lease, Step] | None] = SimpleQueue()
    thread = threading.Thread(target=lambda: got.put(work.feed.next(7)), daemon=True)
    thread.start()
    work.landing.room *= 3
    work.take()
    assert got.get(timeout=PATIENCE) is not None


@pytest.mark.parametrize(("short", "length"), [(0, LARGE_BYTES), (1, LARGE_BYTES // 2)])
def test_copies_are_so_small_that_there_is_room_for_one_of_each_cpu(short: int, length: int) -> None:
    work = grown(Origin.PAGE_CACHE, usable_cpus())
    work.landing.room -= short
    assert work.take()[1].length == length


def test_memory_is_leased_in_a_hurry_while_reads_wait_for_storage() -> None:
    work = Work([10] * 3)
    for origin in (Origin.PAGE_CACHE, Origin.DISK, Origin.DISK):
        work.land(work.take(), origin)
    assert work.landing.hurries == [False, False, True]


def test_readers_rest_again_when_reads_are_copies_again(one_cpu: None) -> None:
    work = Work([10] * 20)
    work.land(work.take(), Origin.DISK)
    assert work.take(1)[1].offset == 10
    for _ in range(3):
        work.land(work.take(), Origin.PAGE_CACHE)
    # Reader 1 rests now: it would take the next step, but wakes when there is none.
    got: SimpleQueue[tuple[Lease, Step] | None] = SimpleQueue()
    thread = threading.Thread(target=lambda: got.put(work.feed.next(1)), daemon=True)
    thread.start()
    while work.feed.next(0) is not None:
        pass
    assert got.get(timeout=PATIENCE) is None


@pytest.mark.parametrize("end", ["close", "fail"])
def test_a_resting_reader_ends_with_the_load(one_cpu: None, end: str) -> None:
    work = Work([10, 10])
    ended: SimpleQueue[bool] = SimpleQueue()

    def rest() -> None:
        with pytest.raises(Stopped):
            work.feed.next(1)
        ended.put(True)

    thread = threading.Thread(target=rest, daemon=True)
    thread.start()
    if end == "close":
        work.lifecycle.close()
    else:
        work.lifecycle.fail(ReadError("m: gone"))
    assert ended.get(timeout=PATIENCE)


def test_all_readers_are_at_work_from_the_start_where_the_first_read_would_wait_for_storage(one_cpu: None) -> None:
    work = Work([100] * 8, first=Origin.DISK)
    assert work.feed.has_work_for(7)
    assert work.take(7)[1].offset == 0
    assert work.landing.hurries == [True]


# What goes wrong.


class FailingSource(MemorySource):
    """Fails reads from `bad` on."""

    def __init__(self, size: int, bad: int, error: BaseException) -> None:
        super().__init__("m", bytes(size))
        self.bad = bad
        self.error = error

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if offset >= self.bad:
            raise self.error
        return super().read_into(offset, buffer)


def test_a_read_error_names_the_tensor() -> None:
    work = Work([10, 20, 30])
    # One reader: another would raise the same error for the tensor behind, and name that in it too.
    work.read_all(FailingSource(work.size, 10, SourceChangedError("m: bytes 10-30: was written to")), count=1)
    error = work.error()
    assert type(error) is SourceChangedError
    assert str(error) == "m: bytes 10-30: was written to (while reading tensor 't1')"


def test_a_read_error_of_many_tensors_names_the_first_and_their_number() -> None:
    tensors = infos([10, 0, 10, 10], data_start=0)
    files = [PlannedFile(30, SourceKind.FILE, 1, CHUNK, tensors)]
    groups = list(plan_groups(files))
    lifecycle = Lifecycle()
    fed = Feed(groups, files, RecordingLanding(lifecycle), lifecycle)
    source = FailingSource(30, 0, TruncatedError("m: ends"))
    start_readers(1, fed, [source], lifecycle).join(PATIENCE)
    assert str(lifecycle.forget_error()) == "m: ends (while reading tensor 't0' and 2 more)"


def test_only_tensors_of_the_read_that_failed_are_named() -> None:
    tensors = infos([CHUNK, CHUNK], data_start=0)
    files = [PlannedFile(2 * CHUNK, SourceKind.FILE, 1, CHUNK, tensors)]
    groups = list(plan_groups(files))
    assert len(groups) == 1
    lifecycle = Lifecycle()
    fed = Feed(groups, files, RecordingLanding(lifecycle), lifecycle)
    source = FailingSource(2 * CHUNK, CHUNK, TruncatedError("m: ends"))
    start_readers(1, fed, [source], lifecycle).join(PATIENCE)
    assert str(lifecycle.forget_error()) == "m: ends (while reading tensor 't1')"


def test_an_unexpected_exception_becomes_ours_with_its_cause() -> None:
    work = Work([10])
    cause = ZeroDivisionError("who knows")
    work.read_all(FailingSource(work.size, 0, cause))
    error = work.error()
    assert type(error) is StreamerError
    assert str(error) == "reading failed unexpectedly: ZeroDivisionError: who knows"
    assert error.__cause__ is cause


def test_a_failure_ends_all_readers() -> None:
    work = Work([10] * 100)
    work.read_all(FailingSource(work.size, 500, ReadError("m: gone")), count=8)
    assert not work.lifecycle.running


def test_fewer_threads_than_wanted_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work([10] * 100, SourceKind.OBJECT, Origin.OBJECT)
    start = threading.Thread.start
    started: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source = MemorySource("m", bytes(work.size))
    work.read_all(source, count=4)
    assert started == ["runai-reader-0", "runai-reader-1"]
    assert len(source.reads) == 100


def test_no_thread_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work([10])

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StreamerError, match="ulimit -u"):
        work.read_all(MemorySource("m", bytes(work.size)))


def test_a_reader_whose_start_a_ctrl_c_has_cut_short_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work([10])
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    source = MemorySource("m", bytes(work.size))
    readers = Readers(1, work.feed, [source], work.lifecycle)
    with pytest.raises(KeyboardInterrupt):
        readers.start()
    assert readers.join(PATIENCE) == []
    assert len(source.reads) == 1


def test_readers_are_daemons_so_that_a_stuck_read_does_not_keep_the_process() -> None:
    work = Work([100] * 3)
    source = MeetingSource(work.size, Origin.DISK, parties=2)
    readers = start_readers(2, work.feed, [source], work.lifecycle)
    assert readers.join(PATIENCE) == []
    assert [thread.daemon for thread in readers.threads] == [True, True]


class WatchedLease(Lease):
    """A lease of which one can tell whether anybody holds it."""

    __slots__ = ("__weakref__",)


class OneGroupLanding(RecordingLanding):
    """A landing with memory for one group: whoever leases another waits."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        super().__init__(lifecycle)
        self.first: weakref.ref[WatchedLease] | None = None
        self.waits_for_memory = threading.Event()
        self.freed = threading.Event()

    def lease(self, group: Group, storage_bound: bool) -> Lease:
        if self.first is not None:
            self.waits_for_memory.set()
            assert self.freed.wait(PATIENCE)
        plain = super().lease(group, storage_bound)
        watched = WatchedLease(plain.slab, group)
        self.first = self.first or weakref.ref(watched)
        return watched


def test_readers_that_wait_for_memory_hold_none() -> None:
    work = Work([3000, 3000])
    landing = OneGroupLanding(work.lifecycle)
    feed = Feed(work.groups, work.files, landing, work.lifecycle, first=Origin.BUFFERED)
    readers = start_readers(4, feed, [MemorySource("m", bytes(work.size))], work.lifecycle)
    assert landing.waits_for_memory.wait(PATIENCE)
    work.lifecycle.wait_for(lambda: feed.is_complete(0))
    del feed.leases[0]
    assert landing.first is not None
    ends = time.monotonic() + PATIENCE
    while landing.first() is not None and time.monotonic() < ends:  # the last thread leaves its frames
        time.sleep(0.001)
    assert landing.first() is None
    landing.freed.set()
    assert readers.join(PATIENCE) == []
