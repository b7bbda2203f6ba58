"""Objects opened through the cache: what is fetched, what is there, and what goes wrong with it."""

import errno
import itertools
import logging
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from runai_model_streamer.config import CacheConfig, DirectIO
from runai_model_streamer.errors import (
    InterruptedReadError,
    MissingDependencyError,
    ReadError,
    StorageUnreachableError,
)
from runai_model_streamer.io.cache.cache import NodeCache
from runai_model_streamer.io.cache.names import FOLDER
from runai_model_streamer.io.cache.source import LEAST_BYTES, CachedSource
from runai_model_streamer.io.cache_counts import CacheCounts
from runai_model_streamer.io.files.requests import MIN_REQUEST
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import PAGE
from tests.io.cache.objects import PIECE, POLICY, URL, Gate, MemoryObject, MemoryStore, files, make_cache, read
from tests.io.contract import make_buffer

SIZE = 5 * PIECE + 999
DATA = random.Random(6).randbytes(SIZE)
NO_TIME = POLICY._replace(free=0, wait=-1.0)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(DATA)


def load(folder: Path, store: MemoryStore, *spans: tuple[int, int], cache: NodeCache | None = None) -> CacheCounts:
    """Read ranges of the object in one load, and compare them."""
    cache = make_cache(folder) if cache is None else cache
    source = cache.open(URL, store.open)
    for start, end in spans or ((0, SIZE),):
        assert read(source, start, end) == store.data[start:end]
    source.close()
    return cache.counts


def flip(folder: Path, byte: int) -> None:
    (data,) = files(folder, ".data")
    with data.open("r+b") as file:
        file.seek(byte)
        was = file.read(1)
        file.seek(byte)
        file.write(bytes([was[0] ^ 16]))


def test_the_second_load_fetches_one_byte(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    assert store.bytes_fetched == SIZE
    counts = load(tmp_path, store)
    assert store.bytes_fetched == SIZE + 1
    assert counts == CacheCounts(bytes_read=SIZE)


def test_parts_that_are_there_are_used_and_the_rest_is_added(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store, (0, 8), (8, 3000), (PIECE + 5, 3 * PIECE + 7), (4 * PIECE, 4 * PIECE + 1))
    load(tmp_path, store, (SIZE - 50, SIZE), (8, 3000), (2 * PIECE, 4 * PIECE + 100))
    load(tmp_path, store)
    assert store.bytes_fetched == SIZE + 2
    assert load(tmp_path, store).bytes_read == SIZE


def test_every_byte_is_fetched_once_whatever_is_read_in_which_order(tmp_path: Path) -> None:
    for seed in range(20):
        choice, store, folder = random.Random(seed), MemoryStore(DATA), tmp_path / str(seed)
        folder.mkdir()
        for _ in range(4):
            cuts = sorted({0, SIZE, *(choice.randrange(1, SIZE) for _ in range(choice.randrange(9)))})
            spans = [span for span in itertools.pairwise(cuts) if choice.random() < 0.6]
            choice.shuffle(spans)
            load(folder, store, *spans)
        load(folder, store)
        assert store.bytes_fetched == SIZE + 4


def test_an_object_of_which_all_is_there_is_read_as_a_file(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store, (0, SIZE - 1))
    cache = make_cache(tmp_path)
    source = cache.open(URL, store.open)
    assert (source.kind, source.alignment) == (SourceKind.OBJECT, 1)
    assert source.open_file() is None
    read(source, 0, SIZE)
    source.close()
    source = cache.open(URL, store.open)
    assert (source.kind, source.alignment) == (SourceKind.FILE, PAGE)
    assert source.read_into(0, memoryview(bytearray(SIZE))) is not Origin.OBJECT
    assert (source.way or "").startswith("from the node's cache, ")
    file = source.open_file()
    assert file is not None
    assert os.pread(file.fileno(), 100, 50) == DATA[50:150]
    source.close()


def test_what_was_there_of_an_object_is_local(tmp_path: Path, store: MemoryStore) -> None:
    size = LEAST_BYTES + 5 * PIECE
    store.data = random.Random(4).randbytes(size)
    first = make_cache(tmp_path).open(URL, store.open)
    assert first.local == ()
    assert read(first, 0, LEAST_BYTES + 7) == store.data[: LEAST_BYTES + 7]
    assert read(first, size - PIECE, size) == store.data[-PIECE:]
    assert first.local == ()
    first.close()
    second = make_cache(tmp_path).open(URL, store.open)
    assert second.local == [(0, LEAST_BYTES + 7), (size - PIECE, size)]
    assert second.kind is SourceKind.OBJECT
    assert read(second, 0, size) == store.data
    second.close()
    alike = make_cache(tmp_path, as_files=False).open(URL, store.open)
    assert alike.local is None
    alike.close()


@pytest.mark.parametrize("fetched", [False, True])
def test_a_load_that_fetches_too_asks_the_disk_for_all_bytes_of_a_read_at_once(
    tmp_path: Path, store: MemoryStore, *, fetched: bool
) -> None:
    local = 4 * MIN_REQUEST
    store.data = random.Random(8).randbytes(local + PIECE)
    load(tmp_path, store, (0, local))
    with closing(make_cache(tmp_path, direct=DirectIO.ALWAYS).open(URL, store.open)) as source:
        if fetched:
            read(source, local, local + PIECE)
        view = make_buffer(local, 0)
        source.read_into(0, view)
        assert view == store.data[:local]
        way = source.way or ""
    asked = local if fetched else MIN_REQUEST
    assert f"up to {asked >> 20}MiB at once" in way or "refuses" in way


def test_a_read_that_begins_within_a_page_reads_the_others_past_the_page_cache(
    tmp_path: Path, store: MemoryStore
) -> None:
    load(tmp_path, store)
    source = make_cache(tmp_path, direct=DirectIO.ALWAYS).open(URL, store.open)
    view = make_buffer(3 * PAGE, 5)
    origin = source.read_into(PAGE + 5, view)
    assert view == DATA[PAGE + 5 : 4 * PAGE + 5]
    assert origin in (Origin.DISK, Origin.BUFFERED)  # some file systems refuse that
    assert origin is Origin.DISK or "refuses" in (source.way or "")
    source.close()


def test_stores_with_equal_urls_and_versions_are_told_apart_by_their_endpoint(tmp_path: Path) -> None:
    stores = {
        endpoint: MemoryStore(random.Random(endpoint).randbytes(SIZE)) for endpoint in ("", "http://a", "http://b")
    }
    for _ in range(2):
        for endpoint, store in stores.items():
            cache = make_cache(tmp_path)
            with closing(cache.open(URL, store.open, lambda told=endpoint: told)) as source:  # type: ignore[misc]
                assert read(source, 0, SIZE) == store.data
    assert [store.bytes_fetched for store in stores.values()] == [SIZE + 1] * 3
    cache = make_cache(tmp_path, offline=True)
    for endpoint, store in stores.items():
        with closing(cache.open_offline(URL, URL, endpoint)) as source:
            assert read(source, 0, SIZE) == store.data
    with pytest.raises(StorageUnreachableError):
        cache.open_offline(URL, URL, "http://c")


def test_ranks_that_plan_alike_see_an_object_whatever_is_there(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    source = make_cache(tmp_path, as_files=False).open(URL, store.open)
    assert source.kind is SourceKind.OBJECT
    assert read(source, 0, SIZE) == DATA
    source.close()


def test_versions_lie_side_by_side(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    other = MemoryStore(DATA[::-1], '"two"')
    load(tmp_path, other)
    assert [each.beginning for each in other.opened] == [1]  # an older version was there
    load(tmp_path, store)
    load(tmp_path, other)
    assert (store.bytes_fetched, other.bytes_fetched) == (SIZE + 1, SIZE + 1)
    assert len(files(tmp_path, ".data")) == 2


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_an_object_whose_version_is_not_known_is_not_cached(tmp_path: Path, etag: str | None) -> None:
    store = MemoryStore(DATA, etag)
    load(tmp_path, store)
    load(tmp_path, store)
    assert store.bytes_fetched == 2 * SIZE
    assert files(tmp_path, ".data") == []


def test_an_empty_object_is_opened_as_it_is(tmp_path: Path) -> None:
    store = MemoryStore(b"")
    source = make_cache(tmp_path).open(URL, store.open)
    assert source is store.opened[0]


@pytest.mark.parametrize("byte", [0, PIECE - 1, 2 * PIECE + 77, SIZE - 1])
def test_a_flipped_bit_is_found_fetched_again_and_said(
    tmp_path: Path, store: MemoryStore, byte: int, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, store)
    flip(tmp_path, byte)
    with caplog.at_level(logging.WARNING):
        counts = load(tmp_path, store)
    assert counts.bytes_damaged > 0
    assert counts.bytes_written == counts.bytes_damaged <= PIECE
    assert store.bytes_fetched == SIZE + counts.bytes_damaged + (byte > 0)  # opening fetched byte 0
    (said,) = caplog.messages
    assert "were damaged in the cache" in said
    assert load(tmp_path, store) == CacheCounts(bytes_read=SIZE)
    assert len(caplog.messages) == 1


def test_a_flipped_bit_beside_the_range_of_a_read_is_found_with_its_piece(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    flip(tmp_path, 2 * PIECE - 100)
    counts = load(tmp_path, store, (2 * PIECE - 10, 2 * PIECE - 5))
    assert counts.bytes_damaged == PIECE
    assert counts.bytes_written == 5


def test_two_who_read_the_same_at_once_fetch_it_once(tmp_path: Path, store: MemoryStore) -> None:
    caches = [make_cache(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda cache: load(tmp_path, store, cache=cache), caches))
    assert store.bytes_fetched == SIZE + sum(each.beginning == 1 for each in store.opened)


def test_one_who_waits_for_another_goes_on_when_that_one_fails(tmp_path: Path, store: MemoryStore) -> None:
    failing, waiting = (make_cache(tmp_path).open(URL, store.open) for _ in range(2))
    gate = store.opened[0].gate = Gate(ReadError("it broke", where=URL))
    with ThreadPoolExecutor(2) as threads:
        broken = threads.submit(read, failing, PIECE, SIZE)
        gate.await_read()
        other = threads.submit(read, waiting, PIECE, SIZE)
        gate.open()
        assert other.result(60) == DATA[PIECE:]
        with pytest.raises(ReadError, match="it broke"):
            broken.result(60)
    failing.close()
    waiting.close()


def test_one_who_has_waited_for_long_fetches_by_itself(tmp_path: Path, store: MemoryStore) -> None:
    one = make_cache(tmp_path).open(URL, store.open)
    other = make_cache(tmp_path, policy=POLICY._replace(patience=0.05)).open(URL, store.open)
    gate = store.opened[0].gate = Gate()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(read, one, PIECE, SIZE)
        gate.await_read()
        assert read(other, PIECE, SIZE) == DATA[PIECE:]
        gate.open()
        assert slow.result(60) == DATA[PIECE:]
    one.close()
    other.close()


def test_a_wait_for_another_ends_when_the_load_does(tmp_path: Path, store: MemoryStore) -> None:
    one, other = (make_cache(tmp_path).open(URL, store.open) for _ in range(2))
    gate = store.opened[0].gate = Gate()
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(read, one, PIECE, SIZE)
        gate.await_read()
        waiting = threads.submit(read, other, PIECE, SIZE)
        other.interrupt()
        with pytest.raises(InterruptedReadError):
            waiting.result(60)
        gate.open()
        slow.result(60)
    one.close()
    other.close()


def test_a_cache_stays_within_its_size_and_keeps_what_a_load_begins_with(tmp_path: Path) -> None:
    stores = {f"s3://models/{number}": MemoryStore(DATA, f'"{number}"') for number in range(8)}
    limit = 2 * (SIZE + PAGE) + 2 * PIECE
    counts = CacheCounts()
    for _ in range(3):
        cache = make_cache(tmp_path, size=limit)
        cache.expect(stores)
        sources = [cache.open(url, store.open) for url, store in stores.items()]
        for source in sources:
            assert read(source, 0, SIZE) == DATA
        for source in sources:
            source.close()
        counts = cache.counts
        assert sum(data.stat().st_blocks * 512 for data in files(tmp_path, ".data")) <= limit
    assert counts.bytes_read >= 2 * SIZE
    assert counts.bytes_written == 0


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path) -> None:
    limit = 2 * (SIZE + PAGE)
    for url in ("a", "b", "a", "c"):
        cache = make_cache(tmp_path, size=limit)
        source = cache.open(url, MemoryStore(DATA, f'"{url}"').open)
        read(source, 0, SIZE)
        source.close()
    counts = {}
    for url in ("a", "c"):
        cache = make_cache(tmp_path, size=limit)
        source = cache.open(url, MemoryStore(DATA, f'"{url}"').open)
        read(source, 0, SIZE)
        source.close()
        counts[url] = cache.counts.bytes_read
    assert counts == {"a": SIZE, "c": SIZE}


def test_an_object_larger_than_the_cache_is_kept_in_part(tmp_path: Path, store: MemoryStore) -> None:
    limit = 2 * PIECE
    counts = load(tmp_path, store, cache=make_cache(tmp_path, size=limit))
    (data,) = files(tmp_path, ".data")
    assert PIECE <= data.stat().st_blocks * 512 <= limit
    assert counts.bytes_no_room == counts.bytes_left_out > 0
    counts = load(tmp_path, store, cache=make_cache(tmp_path, size=limit))
    assert counts.bytes_read >= PIECE
    assert data.stat().st_blocks * 512 <= limit


def test_what_there_is_no_time_to_write_is_left_out_and_fetched_later(tmp_path: Path, store: MemoryStore) -> None:
    counts = load(tmp_path, store, (0, PIECE), (PIECE, SIZE), cache=make_cache(tmp_path, policy=NO_TIME))
    begun = POLICY.beginning
    assert counts == CacheCounts(bytes_read=begun, bytes_written=begun, bytes_left_out=SIZE - begun)
    counts = load(tmp_path, store)
    assert counts.bytes_read + counts.bytes_written == SIZE
    assert load(tmp_path, store).bytes_read == SIZE


def test_nothing_is_left_out_while_others_use_the_object(tmp_path: Path, store: MemoryStore) -> None:
    other = make_cache(tmp_path)
    using = other.open(URL, store.open)
    assert load(tmp_path, store, cache=make_cache(tmp_path, policy=NO_TIME)).bytes_left_out == 0
    using.close()


def test_there_is_no_request_offline(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    cache = make_cache(tmp_path, offline=True)
    source = cache.open_offline(URL, URL)
    assert (source.path, source.version, source.size) == (URL, '"one"', SIZE)
    assert read(source, 0, SIZE) == DATA
    source.close()


def test_what_is_not_there_is_an_error_offline(tmp_path: Path, store: MemoryStore) -> None:
    with pytest.raises(StorageUnreachableError, match="not in the node's cache, and RUNAI_STREAMER_CACHE_OFFLINE"):
        make_cache(tmp_path, offline=True).open_offline(URL, URL)
    load(tmp_path, store, (0, PIECE))
    source = make_cache(tmp_path, offline=True).open_offline(URL, URL)
    assert read(source, 0, PIECE) == DATA[:PIECE]
    with pytest.raises(StorageUnreachableError, match="bytes 65536-"):
        read(source, 0, SIZE)
    source.close()


def test_the_version_used_last_is_read_offline(tmp_path: Path) -> None:
    for etag in ("one", "two", "one"):
        load(tmp_path, MemoryStore(DATA, etag))
    source = make_cache(tmp_path, offline=True).open_offline(URL, URL)
    assert source.version == "one"
    source.close()


def test_a_folder_that_is_not_there_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, folder = MemoryStore(DATA), tmp_path / "missing"
    cache = make_cache(folder)
    for _ in range(3):
        source = cache.open(URL, store.open)
        assert isinstance(source, MemoryObject)
        assert read(source, 0, SIZE) == DATA
    (said,) = caplog.messages
    assert said == (
        f"RUNAI_STREAMER_CACHE_DIR={folder}: there is no such folder: create it. The load goes on without it"
    )
    assert not folder.exists()


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER).chmod(0o777)
    load(tmp_path, MemoryStore(DATA))
    (said,) = caplog.messages
    assert "others may write to it" in said
    assert files(tmp_path, ".data") == []


def test_a_missing_library_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> object:
        raise MissingDependencyError("the cache needs awscrt", remedy="install it", sep=": ")

    cache = NodeCache(CacheConfig(str(tmp_path)), compute=missing)  # type: ignore[arg-type]
    load(tmp_path, MemoryStore(DATA), cache=cache)
    (said,) = caplog.messages
    assert "the cache needs awscrt: install it" in said


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    load(tmp_path, MemoryStore(DATA))
    (said,) = caplog.messages
    assert "The load goes on without it" in said


def test_a_cache_that_is_deleted_in_mid_load_is_one_warning(
    tmp_path: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(tmp_path)
    source = cache.open(URL, store.open)
    read(source, 0, PIECE)
    for path in files(tmp_path / FOLDER, ""):
        path.unlink()
    assert read(source, 0, SIZE) == DATA
    source.close()
    (said,) = caplog.messages
    assert f"cannot be written: {os.strerror(errno.ENOENT)}" in said


def test_a_cached_file_that_was_cut_short_is_one_warning(
    tmp_path: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, store)
    cache = make_cache(tmp_path)
    source = cache.open(URL, store.open)
    (data,) = files(tmp_path, ".data")
    os.truncate(data, PIECE)
    for start in range(0, SIZE, PIECE):
        assert read(source, start, min(start + PIECE, SIZE)) == DATA[start : start + PIECE]
    source.close()
    (said,) = caplog.messages
    assert "cannot be read" in said


def test_closing_twice_is_harmless(tmp_path: Path, store: MemoryStore) -> None:
    cache = make_cache(tmp_path)
    source: Source = cache.open(URL, store.open)
    assert isinstance(source, CachedSource)
    for _ in range(2):
        source.close()


def test_no_thread_and_no_descriptor_is_left(tmp_path: Path, store: MemoryStore) -> None:
    load(tmp_path, store)
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    load(tmp_path, store)
    load(tmp_path, MemoryStore(DATA, '"three"'))
    assert set(os.listdir("/proc/self/fd")) <= before
    assert set(threading.enumerate()) <= threads
