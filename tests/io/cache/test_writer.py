"""When what was fetched is written to the cache, and when it is left out. No disk and no real time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from runai_model_streamer.io.cache.entry import Entry
from runai_model_streamer.io.cache.journal import About
from runai_model_streamer.io.cache.policy import USUAL
from runai_model_streamer.io.cache.trouble import Trouble
from runai_model_streamer.io.cache.writer import Spent, Writer, spent
from runai_model_streamer.io.cache_counts import CacheCounts, Counter
from tests.io.cache.objects import entry_at

SIZE = 1 << 20
POLICY = USUAL._replace(free=0, wait=0.1, cpu=0.05, saved=0.4, busy=2.0)
FETCH = Spent(0.1, 0.01, 0.001)
"""A read of an idle machine."""
BUSY = Spent(0.1, 0.01, 0.09)
"""One of a machine without a free CPU."""
WRITE = Spent(0.002, 0.001, 0.0)


class _Timed:
    """An entry whose writes take what a test says, and write nothing."""

    def __init__(self, entry: Entry, load: "Load") -> None:
        self._load = load
        self.claim, self.release = entry.claim, entry.release
        self._entry = entry

    @property
    def shared(self) -> bool:
        return self._entry.shared

    def write(self, start: int, view: memoryview, longest: int) -> int:
        self._load.write()
        return len(view)


class Load:
    """A load in one thread that fetches a mebibyte after another, and what it spends."""

    def __init__(self, entry: Entry) -> None:
        self.now = Spent(0.0, 0.0, 0.0)
        self.counter = Counter()
        self.writer = Writer(POLICY, self.counter, Trouble("/cache"), lambda: self.now)
        self.entry = cast(Entry, _Timed(entry, self))
        self.write: Callable[[], None] = lambda: None

    def spend(self, what: Spent) -> None:
        """Let time pass."""
        self.now = Spent(*(one + other for one, other in zip(self.now, what, strict=True)))

    def fetch(self, fetch: Spent, write: Spent, times: int = 1) -> float:
        """Fetch and write so many times. Return the part that was written."""
        before = self.counter.counts.bytes_written
        for _ in range(times):
            begun = self.now
            self.spend(fetch)
            self.write = lambda: self.spend(write)
            self.writer.put(self.entry, 0, memoryview(bytes(SIZE)), begun)
        return (self.counter.counts.bytes_written - before) / (times * SIZE)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    entry = entry_at(tmp_path, About("s3://models/model", '"etag"', SIZE))
    assert entry is not None
    yield Load(entry)
    entry.close()


def test_all_is_written_while_that_takes_a_small_part_of_the_time(load: Load) -> None:
    assert load.fetch(FETCH, WRITE, 100) == 1.0


def test_where_the_disk_is_slow_as_much_is_written_as_the_time_allows(load: Load) -> None:
    assert load.fetch(FETCH, Spent(0.02, 0.001, 0.0), 100) == pytest.approx(0.5, abs=0.05)
    assert load.counter.counts.bytes_no_room == 0


def test_where_threads_wait_for_cpus_as_much_is_written_as_the_cpu_time_allows(load: Load) -> None:
    assert load.fetch(BUSY, WRITE, 100) == pytest.approx(0.5, abs=0.05)
    assert load.fetch(FETCH, WRITE, 50) > 0.8  # once there are CPUs again


def test_time_that_reads_from_the_cache_save_is_spent_on_adding_the_rest(load: Load) -> None:
    write = Spent(0.04, 0.001, 0.0)  # a tenth of the time is enough for a quarter
    assert load.fetch(FETCH, write, 100) == pytest.approx(0.25, abs=0.05)
    written = 0.0
    for _ in range(100):  # a fifth of the load comes from the cache: 0.25 + 0.4 x 0.25 / 0.4
        load.writer.saved(SIZE // 4)
        written += load.fetch(FETCH, write) / 100
    assert written == pytest.approx(0.5, abs=0.05)


def test_cpu_time_that_reads_from_the_cache_save_is_spent_on_adding_the_rest(load: Load) -> None:
    write = Spent(0.002, 0.0025, 0.0)  # a quarter of what it takes to fetch
    assert load.fetch(BUSY, write, 100) == pytest.approx(0.2, abs=0.05)
    written = 0.0
    for _ in range(100):  # a fifth of the load comes from the cache: 0.2 + 0.4 x 0.25 x 4
        load.writer.saved(SIZE // 4)
        written += load.fetch(BUSY, write) / 100
    assert written == pytest.approx(0.6, abs=0.05)


def test_what_a_load_begins_with_is_written_in_any_case(load: Load) -> None:
    load.writer = Writer(POLICY._replace(free=3 * SIZE), load.counter, Trouble("/cache"), lambda: load.now)
    assert load.fetch(BUSY, Spent(9.0, 9.0, 0.0), 3) == 1.0
    assert load.fetch(BUSY, WRITE, 3) == 0.0


def test_threads_whose_reads_end_together_do_not_all_take_the_same_time(load: Load) -> None:
    load.fetch(FETCH, Spent(0.008, 0.001, 0.0), 50)  # 0.1 s may be spent now, and a write takes 0.008
    written = 0

    def another() -> None:
        nonlocal written
        written += 1
        load.writer.put(load.entry, 0, memoryview(bytes(SIZE)), load.now)

    load.write = another
    load.writer.put(load.entry, 0, memoryview(bytes(SIZE)), load.now)
    assert 8 <= written <= 20


def test_all_is_written_while_others_use_the_object(load: Load, tmp_path: Path) -> None:
    other = entry_at(tmp_path, None)
    assert other is not None
    assert load.fetch(BUSY, Spent(9.0, 9.0, 0.0), 5) == 1.0
    other.close()
    assert load.fetch(BUSY, WRITE, 5) == 0.0


def test_nothing_is_written_after_trouble(load: Load) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    begun = load.now
    load.write = fail
    load.writer.put(load.entry, 0, memoryview(bytes(SIZE)), begun)
    assert not load.writer.writes
    assert load.fetch(FETCH, WRITE, 5) == 0.0
    assert load.counter.counts == CacheCounts(bytes_left_out=6 * SIZE)


def test_the_ranges_of_what_is_left_out_are_unlocked(load: Load, tmp_path: Path) -> None:
    load.fetch(BUSY, Spent(9.0, 9.0, 0.0))
    assert load.entry.claim(0, SIZE)
    assert load.fetch(BUSY, WRITE) == 0.0
    other = entry_at(tmp_path, None)
    assert other is not None
    assert other.claim(0, SIZE)
    other.close()


def test_a_thread_knows_what_it_has_spent() -> None:
    before = spent()
    sum(range(100_000))
    after = spent().since(before)
    assert after.time > 0
    assert after.cpu >= 0
    assert after.delay >= 0
