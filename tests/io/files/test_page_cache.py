"""What the kernel says of the page cache, through cachestat and through mincore."""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runai_model_streamer.io.files.page_cache import PageCache
from tests.io.files.local_files import (
    COLD_PAGES,
    as_stranger,
    by_mincore,
    cache,
    descriptors,
    evict,
    in_child,
    public_folder,
    require_evicted,
    require_local_disk,
)

PAGE = mmap.PAGESIZE
PAGES = COLD_PAGES
SIZE = PAGES * PAGE


Make = Callable[[int, os.stat_result], PageCache]


@pytest.fixture(params=["cachestat", "mincore"])
def make(request: pytest.FixtureRequest) -> Make:
    """Each way of asking in turn."""
    if request.param == "mincore":
        return by_mincore
    if not has_cachestat():
        pytest.skip("this kernel is older than cachestat (6.5), or a container's filter hides it")
    return PageCache


def has_cachestat() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    # There is no descriptor -1: EBADF from the call itself, ENOSYS or EPERM from what stands in its place.
    libc.syscall(451, -1, None, None, 0)
    return ctypes.get_errno() == errno.EBADF


@pytest.fixture
def ask(cold_file: Path, make: Make) -> Iterator[Callable[[int, int], int | None]]:
    fd = os.open(cold_file, os.O_RDONLY)
    yield make(fd, os.fstat(fd)).cached_bytes
    os.close(fd)


Ask = Callable[[int, int], int | None]


def test_nothing_of_an_evicted_file_is_cached(ask: Ask) -> None:
    assert ask(0, SIZE) == 0


def test_all_of_a_file_that_was_read_is_cached(ask: Ask, cold_file: Path) -> None:
    cache(cold_file)
    assert ask(0, SIZE) == SIZE


def test_of_a_file_half_read_half_is_cached(ask: Ask, cold_file: Path) -> None:
    cache(cold_file, 0, SIZE // 2)
    assert ask(0, SIZE) == SIZE // 2


def test_only_the_range_asked_about_counts(ask: Ask, cold_file: Path) -> None:
    cache(cold_file, 8 * PAGE, 4 * PAGE)
    answers = [ask(start * PAGE, 4 * PAGE) for start in (0, 4, 6, 8, 10, 12)]
    assert answers == [0, 0, 2 * PAGE, 4 * PAGE, 2 * PAGE, 0]


def test_a_range_within_a_page_counts_as_the_page(ask: Ask, cold_file: Path) -> None:
    cache(cold_file, 3 * PAGE, 1)
    assert ask(3 * PAGE + 100, 1) == PAGE


def test_a_range_across_two_pages_counts_both(ask: Ask, cold_file: Path) -> None:
    cache(cold_file, 3 * PAGE, 2 * PAGE)
    assert ask(4 * PAGE - 1, 2) == 2 * PAGE


def test_a_last_page_that_is_not_full_counts_as_one(make: Make, tmp_path: Path) -> None:
    require_local_disk(tmp_path)
    cold_file = tmp_path / "odd"
    cold_file.write_bytes(b"x" * (PAGE + 1))
    evict(cold_file)
    cache(cold_file)
    with cold_file.open("rb") as opened:
        page_cache = make(opened.fileno(), os.fstat(opened.fileno()))
        assert page_cache.cached_bytes(PAGE, 1) == PAGE


def test_what_is_not_yet_on_disk_is_cached(ask: Ask, cold_file: Path) -> None:
    with cold_file.open("r+b") as opened:
        opened.write(os.urandom(SIZE))
    assert ask(0, SIZE) == SIZE


def test_what_is_evicted_later_is_no_longer_cached(ask: Ask, cold_file: Path) -> None:
    cache(cold_file)
    before = ask(0, SIZE)
    evict(cold_file)
    assert (before, ask(0, SIZE)) == (SIZE, 0)


def test_asking_brings_nothing_into_the_cache(ask: Ask) -> None:
    for page in range(PAGES):
        ask(page * PAGE, PAGE)
    assert ask(0, SIZE) == 0


def test_both_calls_agree_on_every_page(cold_file: Path) -> None:
    if not has_cachestat():
        pytest.skip("this kernel has one of them only")
    for page in (0, 1, 5, 17, 18, 19, PAGES - 1):
        cache(cold_file, page * PAGE, PAGE)

    def answers(make: Make) -> list[int | None]:
        with cold_file.open("rb") as opened:
            page_cache = make(opened.fileno(), os.fstat(opened.fileno()))
            return [page_cache.cached_bytes(page * PAGE, PAGE) for page in range(PAGES)]

    said_by_cachestat = answers(PageCache)
    assert answers(by_mincore) == said_by_cachestat
    assert sum(filter(None, said_by_cachestat)) == 7 * PAGE


def test_a_range_beyond_four_gib_is_found(make: Make, tmp_path: Path) -> None:
    require_local_disk(tmp_path)
    cold_file, far = tmp_path / "sparse", (5 << 30) + 7 * PAGE
    with cold_file.open("wb") as opened:
        opened.seek(far)
        opened.write(b"x" * PAGE)
    evict(cold_file)
    cache(cold_file, far, PAGE)
    with cold_file.open("rb") as opened:
        page_cache = make(opened.fileno(), os.fstat(opened.fileno()))
        assert [page_cache.cached_bytes(far + shift, PAGE) for shift in (-PAGE, 0)] == [0, PAGE]


def test_a_file_larger_than_memory_gets_an_answer(make: Make, tmp_path: Path) -> None:
    require_local_disk(tmp_path)
    cold_file = tmp_path / "sparse"
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE
    cold_file.touch()
    try:
        os.truncate(cold_file, min(4 * memory, 15 << 40))
    except OSError as error:
        pytest.skip(f"no file of that size here: {error}")
    with cold_file.open("rb") as opened:
        assert make(opened.fileno(), os.fstat(opened.fileno())).cached_bytes(0, SIZE) == 0


def test_mincore_gives_no_answer_on_an_empty_file(tmp_path: Path) -> None:
    cold_file = tmp_path / "empty"
    cold_file.touch()
    with cold_file.open("rb") as opened:
        assert by_mincore(opened.fileno(), os.fstat(opened.fileno())).cached_bytes(0, 1) is None


def test_mincore_counts_nothing_past_the_length_the_file_had(cold_file: Path) -> None:
    with cold_file.open("rb") as opened:
        page_cache = by_mincore(opened.fileno(), os.fstat(opened.fileno()))
        os.truncate(cold_file, 64 * SIZE)
        assert [page_cache.cached_bytes(count * SIZE, SIZE) for count in range(64)] == [0] * 64


def test_mincore_answers_for_a_file_that_was_cut_short(cold_file: Path) -> None:
    cache(cold_file)
    with cold_file.open("rb") as opened:
        page_cache = by_mincore(opened.fileno(), os.fstat(opened.fileno()))
        os.truncate(cold_file, PAGE)
        assert page_cache.cached_bytes(0, SIZE) == PAGE


def test_cachestat_gives_no_answer_when_the_file_is_closed(cold_file: Path) -> None:
    opened = os.open(cold_file, os.O_RDONLY)
    page_cache = PageCache(opened, os.fstat(opened))
    os.close(opened)
    if not has_cachestat():
        pytest.skip("this kernel is older than cachestat")
    assert page_cache.cached_bytes(0, SIZE) is None


def test_no_descriptor_is_left_when_it_goes(cold_file: Path, make: Make) -> None:
    before = descriptors(cold_file)
    with cold_file.open("rb") as opened:
        page_cache = make(opened.fileno(), os.fstat(opened.fileno()))
        assert page_cache.cached_bytes(0, SIZE) == 0
        del page_cache
    assert descriptors(cold_file) == before


@pytest.fixture
def public_file() -> Iterator[Path]:
    """A file of this user that others may read, of which nothing is cached."""
    with public_folder() as folder:
        require_local_disk(folder)
        path = folder / "model.safetensors"
        path.write_bytes(os.urandom(SIZE))
        path.chmod(0o644)
        require_evicted(path)
        yield path


def asked_of(path: Path, make: Make = PageCache) -> int | None:
    with path.open("rb") as opened:
        return make(opened.fileno(), os.fstat(opened.fileno())).cached_bytes(0, SIZE)


def test_a_stranger_gets_no_answer_or_a_true_one(public_file: Path) -> None:
    # Linux 6.5 to 6.12 tell anybody.
    assert as_stranger(lambda: asked_of(public_file)) in (None, 0)


def test_mincore_is_not_believed_by_a_stranger(public_file: Path) -> None:
    assert as_stranger(lambda: asked_of(public_file, by_mincore)) is None


def test_a_stranger_who_may_write_the_file_gets_an_answer(public_file: Path, make: Make) -> None:
    public_file.chmod(0o666)
    assert as_stranger(lambda: asked_of(public_file, make)) == 0


def test_who_owns_a_read_only_file_gets_an_answer(public_file: Path, make: Make) -> None:
    def as_owner() -> int | None:
        return asked_of(public_file, make)

    if os.geteuid() == 0:
        os.chown(public_file, 65534, 65534)
    public_file.chmod(0o400)
    assert (as_stranger(as_owner) if os.geteuid() == 0 else as_owner()) == 0


def test_a_filter_that_forbids_cachestat_leaves_mincore(cold_file: Path) -> None:
    def behind_a_filter() -> tuple[bool, int | None]:
        forbid(451)
        return has_cachestat(), asked_of(cold_file)

    assert in_child(behind_a_filter) == (False, 0)


def forbid(call: int) -> None:
    """Make a system call answer EPERM in this process, as older container runtimes do with those they do not know."""
    # Load the call's number; if it is this one, return EPERM; else allow.
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_filter, filter_mode, program, 0, 0):
        pytest.skip("system calls cannot be filtered here")
