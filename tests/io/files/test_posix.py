"""Local files: when they are read past the page cache, and what is said when they cannot be read."""

import errno
import fcntl
import gc
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from runai_model_streamer import errors, list_safetensors
from runai_model_streamer.config import DirectIO, LoadConfig
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.files.requests import FIRST_WINDOW, MIN_REQUEST, RequestSize, RequestSizes
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import PATIENCE
from tests.io.contract import make_buffer
from tests.io.files.local_files import (
    as_stranger,
    by_mincore,
    cache,
    cached_bytes,
    descriptors,
    evict,
    public_folder,
    require_evicted,
    require_local_disk,
    with_mount,
)

PAGES = 64
SIZE = PAGES * PAGE
TAIL = 1234
"""Bytes of the last page of a file that does not end on a page."""


class Read(NamedTuple):
    data: bytes
    origin: Origin


def read(source: Source, offset: int = 0, length: int | None = None, shift: int = 0) -> Read:
    buffer = make_buffer(source.size - offset if length is None else length, shift)
    origin = source.read_into(offset, buffer)
    return Read(bytes(buffer), origin)


def read_file(
    path: Path,
    direct: DirectIO = DirectIO.AUTO,
    *,
    shared: bool = False,
    page_cache: Callable[[int, os.stat_result], PageCache] = PageCache,
) -> Read:
    """All of a file, in one read."""
    with closing(FileSource(str(path), direct, shared=shared, page_cache=page_cache)) as source:
        return read(source)


@pytest.fixture
def any_file(tmp_path: Path) -> Path:
    """Pages and a piece of one, wherever tests put their files."""
    return written(tmp_path / "model.safetensors", SIZE + TAIL)


@pytest.fixture
def odd_file(any_file: Path) -> Path:
    """The same on a local disk, and nothing of it is cached."""
    require_local_disk(any_file.parent)
    require_evicted(any_file)
    return any_file


@pytest.fixture
def file(odd_file: Path) -> Path:
    """The same without the piece: whole pages."""
    os.truncate(odd_file, SIZE)
    require_evicted(odd_file)
    return odd_file


def written(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    evict(path)
    return path


# Which way.


def test_what_is_not_cached_is_read_past_the_page_cache(file: Path) -> None:
    assert read_file(file) == (file.read_bytes(), Origin.DISK)


def test_what_is_cached_is_copied_from_the_page_cache(file: Path) -> None:
    cache(file)
    assert read_file(file) == (file.read_bytes(), Origin.PAGE_CACHE)


def test_reading_direct_brings_nothing_into_the_page_cache(file: Path) -> None:
    read_file(file)
    assert cached_bytes(file) == 0


def test_of_a_direct_read_only_the_last_partial_page_goes_through_the_page_cache(odd_file: Path) -> None:
    found = read_file(odd_file)
    assert (found.origin, cached_bytes(odd_file, 0, SIZE)) == (Origin.DISK, 0)
    assert found.data == odd_file.read_bytes()


def test_a_half_cached_range_is_read_right_and_direct(odd_file: Path) -> None:
    cache(odd_file, 0, SIZE // 2)
    assert cached_bytes(odd_file) == SIZE // 2
    found = read_file(odd_file)
    assert found == (odd_file.read_bytes(), Origin.DISK)


def test_where_a_range_would_come_from_is_told_without_reading_it(file: Path) -> None:
    cache(file, 16 * PAGE, 16 * PAGE)
    with closing(FileSource(str(file))) as source:
        told = [source.origin(start * PAGE, 16 * PAGE) for start in (0, 16, 8)]
    assert told == [Origin.DISK, Origin.PAGE_CACHE, Origin.DISK]
    assert cached_bytes(file) == 16 * PAGE


def test_each_range_of_a_half_cached_file_is_read_the_way_that_suits_it(file: Path) -> None:
    cache(file, 16 * PAGE, 16 * PAGE)
    with closing(FileSource(str(file))) as source:
        found = [read(source, start * PAGE, 16 * PAGE) for start in (0, 16, 32, 48)]
    assert [origin for _, origin in found] == [Origin.DISK, Origin.PAGE_CACHE, Origin.DISK, Origin.DISK]
    assert b"".join(data for data, _ in found) == file.read_bytes()


@pytest.mark.parametrize(
    ("direct", "shared", "way"),
    [
        (DirectIO.AUTO, False, "past the page cache, up to 4MiB at once"),
        (DirectIO.ALWAYS, True, "past the page cache, up to 4MiB at once"),
        (DirectIO.AUTO, True, "through the page cache: other processes of this node may read the same files"),
        (DirectIO.NEVER, False, "through the page cache: RUNAI_STREAMER_DIRECT_IO is 0"),
    ],
)
def test_it_is_told_how_the_bytes_were_read_and_why(file: Path, direct: DirectIO, shared: bool, way: str) -> None:
    with closing(FileSource(str(file), direct, shared=shared)) as source:
        read(source)
    assert source.way == way  # of a closed source too: reports are made then


def test_of_a_file_that_was_cached_it_is_told_that_nothing_was_read_past_the_cache(file: Path) -> None:
    cache(file)
    with closing(FileSource(str(file))) as source:
        read(source)
        assert source.way == "through the page cache: it held all bytes"


MIB = 1 << 20


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Some MiB and a piece of a page on a local disk, nothing of it cached."""
    require_local_disk(tmp_path)
    path = written(tmp_path / "model.safetensors", 5 * MIB + TAIL)
    require_evicted(path)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The reads made: the way, "direct" or "buffered", the first byte and the length."""
    made: list[tuple[str, int, int]] = []
    preadv = os.preadv

    def noted(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        direct = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        made.append(("direct" if direct else "buffered", offset, len(buffers[0])))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    return made


def test_a_range_is_asked_for_in_requests_of_the_size_that_is_told(
    large_file: Path, reads: list[tuple[str, int, int]]
) -> None:
    requests = RequestSize()
    requests.size = MIB
    with closing(FileSource(str(large_file), requests=RequestSizes(lambda: requests))) as source:
        found = [read(source, 3 * PAGE, 3 * MIB)]
        requests.size = 2 * MIB
        found.append(read(source, 3 * PAGE, 3 * MIB))
    assert found == [(large_file.read_bytes()[3 * PAGE : 3 * PAGE + 3 * MIB], Origin.DISK)] * 2
    assert [(offset - 3 * PAGE, length) for _, offset, length in reads] == [
        (0, MIB),
        (MIB, MIB),
        (2 * MIB, MIB),
        (0, 2 * MIB),
        (2 * MIB, MIB),
    ]
    assert {way for way, _, _ in reads} == {"direct"}


def test_a_short_rest_is_part_of_the_last_request(large_file: Path, reads: list[tuple[str, int, int]]) -> None:
    requests = RequestSize()
    requests.size = MIB
    with closing(FileSource(str(large_file), requests=RequestSizes(lambda: requests))) as source:
        assert read(source, 0, 2 * MIB + PAGE) == (large_file.read_bytes()[: 2 * MIB + PAGE], Origin.DISK)
    assert reads == [("direct", 0, MIB), ("direct", MIB, MIB + PAGE)]


UNTIL_KNOWN = -(-FIRST_WINDOW * MIN_REQUEST // (5 * MIB))
"""Reads of 5 MiB until the rate of a disk is known."""


def test_the_files_of_a_load_share_the_size_of_requests_to_their_disk(
    large_file: Path, reads: list[tuple[str, int, int]]
) -> None:
    storage = Storage(LoadConfig(), None, shared=False)
    storage.requests[large_file.stat().st_dev] = RequestSize(seconds=3600)
    for _ in range(UNTIL_KNOWN + 1):
        with closing(storage.open(str(large_file))) as source:
            read(source, 0, 5 * MIB)
    storage.close()
    assert [length for _, _, length in reads] == [MIN_REQUEST, MIB] * UNTIL_KNOWN + [5 * MIB]


def test_requests_grow_while_a_file_is_read(large_file: Path, reads: list[tuple[str, int, int]]) -> None:
    with closing(FileSource(str(large_file), requests=RequestSizes(lambda: RequestSize(seconds=3600)))) as source:
        for _ in range(UNTIL_KNOWN + 1):
            read(source, 0, 5 * MIB)
    assert [length for _, _, length in reads] == [MIN_REQUEST, MIB] * UNTIL_KNOWN + [5 * MIB]


def test_of_a_large_range_what_is_cached_is_copied_and_the_rest_read_direct(
    large_file: Path, reads: list[tuple[str, int, int]]
) -> None:
    cache(large_file, MIB, MIB)
    requests = RequestSize()
    requests.size = 8 * MIB
    with closing(FileSource(str(large_file), requests=RequestSizes(lambda: requests))) as source:
        assert read(source) == (large_file.read_bytes(), Origin.DISK)
    assert reads == [
        ("direct", 0, MIB),
        ("buffered", MIB, MIB),
        ("direct", 2 * MIB, 3 * MIB),
        ("buffered", 5 * MIB, TAIL),
    ]


def test_a_file_that_has_become_shorter_is_an_error(large_file: Path) -> None:
    with closing(FileSource(str(large_file))) as source:
        os.truncate(large_file, 3 * MIB + PAGE)
        with pytest.raises(errors.TruncatedError, match=f"ends at byte {3 * MIB + PAGE}"):
            read(source)


def test_a_range_with_one_page_missing_is_read_direct(file: Path) -> None:
    cache(file, 0, 9 * PAGE)
    with closing(FileSource(str(file))) as source:
        assert read(source, 0, 10 * PAGE).origin is Origin.DISK


def test_what_is_written_but_not_yet_on_disk_is_read(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"new" * 1000)
        opened.flush()
        assert read_file(file, DirectIO.ALWAYS) == (file.read_bytes(), Origin.DISK)


@pytest.mark.parametrize(("offset", "length"), [(1, SIZE // 2), (512, SIZE // 2), (0, PAGE - 1), (PAGE, 8)], ids=str)
def test_what_is_no_whole_page_is_read_buffered(file: Path, offset: int, length: int) -> None:
    with closing(FileSource(str(file))) as source:
        found = read(source, offset, length)
    assert found == (file.read_bytes()[offset : offset + length], Origin.BUFFERED)


@pytest.mark.parametrize("cached", [True, False])
def test_of_what_is_no_whole_page_too_it_is_known_whether_it_was_cached(odd_file: Path, cached: bool) -> None:
    if cached:
        cache(odd_file)
    with closing(FileSource(str(odd_file))) as source:
        found = read(source, SIZE)
    assert found == (odd_file.read_bytes()[SIZE:], Origin.PAGE_CACHE if cached else Origin.BUFFERED)


@pytest.mark.parametrize("direct", DirectIO)
@pytest.mark.parametrize("shift", [1, 8, 64, 512])
def test_a_buffer_that_direct_reads_cannot_fill_is_filled(any_file: Path, shift: int, direct: DirectIO) -> None:
    with closing(FileSource(str(any_file), direct)) as source:
        assert read(source, shift=shift).data == any_file.read_bytes()


@pytest.mark.parametrize("shift", [1, 8, 64, 512])
def test_the_origin_is_how_it_was_read_and_not_how_it_was_tried(file: Path, shift: int) -> None:
    with closing(FileSource(str(file), DirectIO.ALWAYS)) as source:
        found = read(source, shift=shift)
    # How memory must be aligned is up to the disk; what went through the page cache is in it.
    assert found.origin is (Origin.BUFFERED if cached_bytes(file) else Origin.DISK)


def test_direct_reads_never_are_buffered_reads(file: Path) -> None:
    found = read_file(file, DirectIO.NEVER)
    assert (found.origin, cached_bytes(file)) == (Origin.BUFFERED, SIZE)


def test_direct_reads_always_are_direct_reads_of_cached_ranges_too(file: Path) -> None:
    cache(file)
    assert read_file(file, DirectIO.ALWAYS).origin is Origin.DISK


def test_what_other_processes_load_too_is_read_buffered(file: Path) -> None:
    found = read_file(file, shared=True)
    assert (found.origin, cached_bytes(file)) == (Origin.BUFFERED, SIZE)


def test_direct_reads_always_do_not_care_for_other_processes(file: Path) -> None:
    assert read_file(file, DirectIO.ALWAYS, shared=True).origin is Origin.DISK


def test_without_cachestat_mincore_decides(odd_file: Path) -> None:
    cache(odd_file, 0, SIZE // 2)
    with closing(FileSource(str(odd_file), page_cache=by_mincore)) as source:
        found = [read(source, 0, SIZE // 2), read(source, SIZE // 2)]
    assert [origin for _, origin in found] == [Origin.PAGE_CACHE, Origin.DISK]
    assert b"".join(data for data, _ in found) == odd_file.read_bytes()


# Where direct reads are refused.


@pytest.fixture
def refusing() -> str:
    """A file on a file system without direct reads."""
    path = "/proc/version"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return path
    pytest.skip("this /proc has direct reads")


def test_where_direct_reads_are_refused_it_reads_buffered(refusing: str) -> None:
    with closing(FileSource(refusing, DirectIO.ALWAYS)) as source:
        assert read(source, 0, 5) == (Path(refusing).read_bytes()[:5], Origin.BUFFERED)


def test_where_direct_reads_are_refused_it_says_so_at_debug(refusing: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        FileSource(refusing, DirectIO.ALWAYS).close()
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert f"{refusing}: no direct reads on unknown (Invalid argument)" in record.getMessage()


@pytest.fixture
def refuse_when_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let direct reads, but not the opening for them, fail with this errno, as some network mounts do."""
    preadv = os.preadv

    def refuse(code: int) -> None:
        def read_or_refuse(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(code, os.strerror(code))
            return preadv(fd, buffers, offset)

        monkeypatch.setattr(os, "preadv", read_or_refuse)

    return refuse


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EFAULT])
def test_direct_reads_that_are_refused_late_are_made_buffered(
    odd_file: Path, refuse_when_read: Callable[[int], None], code: int
) -> None:
    refuse_when_read(code)
    with closing(FileSource(str(odd_file))) as source:
        assert read(source) == (odd_file.read_bytes(), Origin.BUFFERED)
        why = f" refuses direct reads ({os.strerror(code)})"
        assert source.way.startswith("through the page cache: ")
        assert source.way.endswith(why)


def test_direct_reads_that_are_refused_late_are_logged(
    file: Path, refuse_when_read: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    refuse_when_read(errno.EINVAL)
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        read_file(file)
    assert f"{file}: no direct reads on " in caplog.text


def test_a_disk_that_fails_is_not_asked_again_buffered(file: Path, refuse_when_read: Callable[[int], None]) -> None:
    refuse_when_read(errno.EIO)
    with pytest.raises(errors.ReadError, match=f"bytes 0-{SIZE}: cannot be read: Input/output error"):
        read_file(file)


@pytest.mark.parametrize("direct", DirectIO)
@pytest.mark.parametrize("maximum", [1000, 3 * PAGE, 3 * PAGE + 512])
def test_reads_that_return_less_than_asked_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: DirectIO, maximum: int
) -> None:
    file = written(tmp_path / "model.safetensors", 7 * PAGE + TAIL)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:maximum]], offset))
    assert read_file(file, direct).data == file.read_bytes()


@pytest.mark.parametrize("direct", DirectIO)
def test_a_file_in_memory_is_copied(direct: DirectIO) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or not os.access(shm, os.W_OK):
        pytest.skip("no /dev/shm")
    file = shm / f"runai-test-{os.getpid()}"
    try:
        file.write_bytes(os.urandom(SIZE + TAIL))
        with file.open("rb") as opened:
            if file_systems.name(opened.fileno()) != "tmpfs":
                pytest.skip("/dev/shm is no tmpfs here")
        assert read_file(file, direct) == (file.read_bytes(), Origin.PAGE_CACHE)
    finally:
        file.unlink(missing_ok=True)


def test_a_file_on_an_overlay_is_read_buffered(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for folder in folders.values():
        folder.mkdir()
    data = os.urandom(SIZE + TAIL)
    (folders["lower"] / "model.safetensors").write_bytes(data)
    options = f"lowerdir={folders['lower']},upperdir={folders['upper']},workdir={folders['work']},userxattr"

    def work() -> tuple[bool, Origin]:
        found = read_file(folders["merged"] / "model.safetensors")
        return found.data == data, found.origin

    assert with_mount("overlay", folders["merged"], options, work) == (True, Origin.BUFFERED)


def test_a_file_on_ramfs_which_refuses_direct_reads_is_copied(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"

    def work() -> tuple[bool, Origin]:
        file.write_bytes(os.urandom(SIZE + TAIL))
        found = read_file(file, DirectIO.ALWAYS)
        return found.data == file.read_bytes(), found.origin

    assert with_mount("ramfs", tmp_path, "", work) == (True, Origin.PAGE_CACHE)


# Who may know what is cached.


@pytest.fixture
def public_file() -> Iterator[Path]:
    """A file of this user that others may read."""
    with public_folder() as folder:
        file = written(folder / "model.safetensors", SIZE + TAIL)
        file.chmod(0o644)
        yield file


@pytest.fixture
def public_cold_file(public_file: Path) -> Path:
    """The same on a local disk, and nothing of it is cached."""
    require_local_disk(public_file.parent)
    require_evicted(public_file)
    return public_file


def test_a_file_of_somebody_else_is_read_right(public_file: Path) -> None:
    assert as_stranger(lambda: read_file(public_file).data) == public_file.read_bytes()


def test_who_may_not_know_what_is_cached_reads_buffered(
    public_cold_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Linux 6.5 to 6.12 tell anybody.
    known = as_stranger(lambda: cached_bytes(public_cold_file)) is not None
    assert as_stranger(lambda: read_file(public_cold_file).origin) is (Origin.DISK if known else Origin.BUFFERED)


def test_who_may_not_know_what_is_cached_reads_buffered_without_cachestat_too(public_cold_file: Path) -> None:
    assert as_stranger(lambda: read_file(public_cold_file, page_cache=by_mincore).origin) is Origin.BUFFERED


def test_who_may_not_know_what_is_cached_is_told_at_debug(
    public_cold_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def messages() -> list[str]:
        with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
            read_file(public_cold_file, page_cache=by_mincore)
        return caplog.messages

    expected = f"{public_cold_file}: the kernel does not say what is cached; reading through the page cache"
    assert as_stranger(messages) == [expected]


def test_who_may_not_know_what_is_cached_may_still_read_direct_always(public_cold_file: Path) -> None:
    assert as_stranger(lambda: read_file(public_cold_file, DirectIO.ALWAYS).origin) is Origin.DISK


# Large, empty and odd files.


@pytest.mark.parametrize("direct", DirectIO)
def test_bytes_on_both_sides_of_four_gib_are_found(tmp_path: Path, direct: DirectIO) -> None:
    edge, data = 4 << 30, os.urandom(2 * PAGE + TAIL)
    file = tmp_path / "sparse"
    with file.open("wb") as opened:
        opened.seek(edge - PAGE)
        opened.write(data)
    with closing(FileSource(str(file), direct)) as source:
        assert source.size == edge + PAGE + TAIL
        assert read(source, edge - PAGE).data == data


@pytest.mark.parametrize("direct", DirectIO)
def test_holes_are_zeros(tmp_path: Path, direct: DirectIO) -> None:
    file = tmp_path / "sparse"
    file.touch()
    os.truncate(file, SIZE + TAIL)
    assert read_file(file, direct).data == bytes(SIZE + TAIL)


@pytest.mark.parametrize("direct", DirectIO)
@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1])
def test_small_files_are_read_whole(tmp_path: Path, size: int, direct: DirectIO) -> None:
    file = written(tmp_path / "small", size)
    assert read_file(file, direct).data == file.read_bytes()


def test_an_empty_file_has_no_first_byte(tmp_path: Path) -> None:
    file = written(tmp_path / "empty", 0)
    with closing(FileSource(str(file))) as source, pytest.raises(errors.TruncatedError):
        read(source, 0, 1)


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.safetensors")
    try:
        file = written(tmp_path / name, SIZE)
    except OSError as error:
        pytest.skip(f"no such names on this file system: {error}")
    assert read_file(file).data == file.read_bytes()


def test_a_symbolic_link_leads_to_its_file(file: Path) -> None:
    link = file.with_name("link.safetensors")
    link.symlink_to(file.name)
    assert read_file(link) == (file.read_bytes(), Origin.DISK)


# A file that changes.


@pytest.fixture(params=DirectIO)
def changing(request: pytest.FixtureRequest, any_file: Path) -> Iterator[FileSource]:
    """An open source of `any_file`, in each of the modes."""
    with closing(FileSource(str(any_file), request.param)) as source:
        yield source


def test_a_file_that_grows_is_an_error(changing: FileSource, any_file: Path) -> None:
    with any_file.open("ab") as opened:
        opened.write(b"more")
    with pytest.raises(errors.SourceChangedError):
        read(changing)


def test_a_file_that_grows_and_keeps_its_time_is_an_error(changing: FileSource, any_file: Path) -> None:
    before = any_file.stat()
    with any_file.open("ab") as opened:
        opened.write(b"more")
    os.utime(any_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(errors.SourceChangedError):
        read(changing)


def test_a_file_that_is_overwritten_in_place_is_an_error(changing: FileSource, any_file: Path) -> None:
    with any_file.open("r+b") as opened:
        opened.write(b"other")
    # Whatever the clock's resolution.
    status = any_file.stat()
    os.utime(any_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    with pytest.raises(errors.SourceChangedError):
        read(changing)


def test_a_file_that_is_overwritten_in_place_and_keeps_its_time_is_an_error(
    changing: FileSource, any_file: Path
) -> None:
    overwrite_and_put_time_back(any_file)
    with pytest.raises(errors.SourceChangedError, match="modification time put back"):
        read(changing)


def test_a_file_that_keeps_its_time_is_an_error_after_some_of_it_was_read(changing: FileSource, any_file: Path) -> None:
    read(changing, 0, 2 * PAGE)
    overwrite_and_put_time_back(any_file)
    with pytest.raises(errors.SourceChangedError, match=f"bytes {2 * PAGE}-{4 * PAGE}"):
        read(changing, 2 * PAGE, 2 * PAGE)


def test_a_file_that_gets_another_name_is_not_changed(changing: FileSource, any_file: Path) -> None:
    before = any_file.read_bytes()
    os.link(any_file, any_file.with_name("another"))
    assert read(changing).data == before


@pytest.mark.parametrize("another", [False, True])
def test_a_file_that_is_renamed_is_not_changed(changing: FileSource, any_file: Path, another: bool) -> None:
    before = any_file.read_bytes()
    any_file.rename(any_file.with_name("renamed"))
    if another:
        any_file.write_bytes(bytes(len(before)))
    assert read(changing).data == before


def test_a_file_that_got_another_name_is_an_error_once_it_is_overwritten(changing: FileSource, any_file: Path) -> None:
    os.link(any_file, any_file.with_name("another"))
    read(changing)
    overwrite_and_put_time_back(any_file)
    with pytest.raises(errors.SourceChangedError):
        read(changing)


def overwrite_and_put_time_back(path: Path) -> None:
    """As `rsync --inplace --times` does; the kernel's own time of the change is later, whatever its unit."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as opened:
            opened.write(b"other")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_error_of_a_changed_file_names_path_and_range(changing: FileSource, any_file: Path) -> None:
    with any_file.open("ab") as opened:
        opened.write(b"more")
    with pytest.raises(errors.SourceChangedError) as caught:
        read(changing, PAGE, 2 * PAGE)
    assert str(any_file) in str(caught.value)
    assert f"bytes {PAGE}-{3 * PAGE}" in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 5 * PAGE, 5 * PAGE + 513])
def test_a_file_that_is_cut_short_is_an_error(changing: FileSource, any_file: Path, length: int) -> None:
    os.truncate(any_file, length)
    with pytest.raises(errors.TruncatedError, match=f"ends at byte {length}, "):
        read(changing)


def test_what_is_left_of_a_file_that_was_cut_short_is_an_error_too(changing: FileSource, any_file: Path) -> None:
    os.truncate(any_file, 5 * PAGE)
    with pytest.raises(errors.SourceChangedError):
        read(changing, 0, 2 * PAGE)


def test_a_file_that_is_replaced_is_still_the_one_that_was_opened(changing: FileSource, any_file: Path) -> None:
    before = any_file.read_bytes()
    other = written(any_file.with_name("other"), SIZE)
    other.replace(any_file)
    assert read(changing).data == before


def test_a_file_that_is_deleted_is_still_there(changing: FileSource, any_file: Path) -> None:
    before = any_file.read_bytes()
    any_file.unlink()
    assert read(changing).data == before


def test_the_file_behind_both_descriptors_is_one(file: Path) -> None:
    before = file.read_bytes()
    evict(file)
    other = written(file.with_name("other"), SIZE)

    def replace_meanwhile(fd: int, status: os.stat_result) -> PageCache:
        os.replace(other, file)
        return PageCache(fd, status)

    assert read_file(file, page_cache=replace_meanwhile) == (before, Origin.DISK)


# What cannot be opened.


class Refusal(NamedTuple):
    error: type[errors.StreamerError]
    says: str


def make_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def make_dangling(folder: Path) -> Path:
    (folder / "dangling").symlink_to("nowhere")
    return folder / "dangling"


def make_in_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "model.safetensors"


def make_socket(folder: Path) -> Path:
    here = os.open(folder, os.O_RDONLY)
    try:
        # Through a short name: that of a socket has at most 107 bytes.
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(f"/proc/self/fd/{here}/socket")
    finally:
        os.close(here)
    return folder / "socket"


REFUSALS: dict[str, tuple[Callable[[Path], Path], type[errors.StreamerError], str]] = {
    "missing": (lambda folder: folder / "none", errors.NotFoundError, "no such file"),
    "missing folder": (lambda folder: folder / "none" / "model", errors.NotFoundError, "no such file"),
    "a folder that is a file": (make_in_file, errors.NotFoundError, "no such file"),
    "a link to nothing": (make_dangling, errors.NotFoundError, "is a symbolic link to .*, which is not there"),
    "in a folder that is a link to nothing": (
        lambda folder: make_dangling(folder) / "model",
        errors.NotFoundError,
        "dangling is a symbolic link",
    ),
    "a link to itself": (make_loop, errors.ReadError, "symbolic links"),
    "a name too long": (lambda folder: folder / ("x" * 300), errors.ReadError, "name too long"),
    "a folder": (lambda folder: folder, errors.IsDirectoryError, "is a folder"),
    "a socket": (make_socket, errors.ReadError, "cannot be read"),
    "a device": (lambda _: Path("/dev/null"), errors.ReadError, "not a regular file"),
}
refusals = pytest.mark.parametrize(("make", "error", "says"), REFUSALS.values(), ids=REFUSALS)
Make = Callable[[Path], Path]


@refusals
def test_what_cannot_be_opened_is_an_error_of_its_kind(
    tmp_path: Path, make: Make, error: type[errors.StreamerError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        FileSource(str(make(tmp_path)))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("org/model", "a model of the Hugging Face Hub would be hf://org/model"),
        ("here/model", ""),
        ("org/model.safetensors", ""),
        ("/org/model", ""),
        ("../model", ""),
        ("model", ""),
    ],
)
def test_what_may_be_a_name_of_the_hub_is_told_how_to_write_it(
    path: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "here").mkdir()
    with pytest.raises(errors.NotFoundError) as opened:
        FileSource(path)
    with pytest.raises(errors.NotFoundError) as listed:
        list_safetensors(path)
    assert (opened.value.remedy, listed.value.remedy) == (remedy, remedy)


@refusals
def test_the_error_of_what_cannot_be_opened_begins_with_the_path(
    tmp_path: Path, make: Make, error: type[errors.StreamerError], says: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(error) as caught:
        FileSource(str(path))
    assert str(caught.value).startswith(f"{path}: ")


@refusals
def test_what_cannot_be_opened_leaves_no_descriptor_open(
    tmp_path: Path, make: Make, error: type[errors.StreamerError], says: str
) -> None:
    path = make(tmp_path)
    before = descriptors(path)
    with pytest.raises(error) as caught:
        FileSource(str(path))
    assert descriptors(path) == before
    del caught


def test_a_pipe_without_a_writer_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    raised: list[errors.ReadError] = []

    def open_it() -> None:
        try:
            FileSource(str(pipe))
        except errors.ReadError as error:
            raised.append(error)

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    waited = thread.is_alive()
    # Wakes the thread if it does wait.
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
    thread.join()
    assert not waited
    assert [str(error) for error in raised] == [f"{pipe}: is not a regular file but a pipe, socket or device"]
    assert descriptors(pipe) == 0


def test_a_file_that_may_not_be_read_is_access_denied(public_file: Path) -> None:
    public_file.chmod(0)

    def refused() -> str:
        with pytest.raises(errors.AccessDeniedError) as caught:
            FileSource(str(public_file))
        return str(caught.value)

    message = as_stranger(refused) if os.geteuid() == 0 else refused()
    assert message == f"{public_file}: this user may not read it; check the file's permissions"


def test_a_file_in_a_folder_that_may_not_be_entered_is_access_denied(public_file: Path) -> None:
    public_file.parent.chmod(0)

    def refused() -> str:
        with pytest.raises(errors.AccessDeniedError) as caught:
            FileSource(str(public_file))
        return str(caught.value)

    try:
        message = as_stranger(refused) if os.geteuid() == 0 else refused()
    finally:
        public_file.parent.chmod(0o755)
    assert str(public_file) in message


def test_a_read_that_the_kernel_refuses_is_an_error_with_path_range_and_reason() -> None:
    # Nothing is mapped at address 0: EIO.
    with closing(FileSource("/proc/self/mem")) as source:
        with pytest.raises(errors.ReadError) as caught:
            read(source, 0, 8)
        assert str(caught.value) == "/proc/self/mem: bytes 0-8: cannot be read: Input/output error"


def test_a_read_error_is_raised_from_the_operating_systems(any_file: Path) -> None:
    with pytest.raises(errors.NotFoundError) as caught:
        FileSource(f"{any_file}.none")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# Descriptors.


@pytest.fixture
def descriptors_left() -> Iterator[Callable[[int], None]]:
    """Set how many more files this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(count: int) -> None:
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
        limit = os.open("/dev/null", os.O_RDONLY)
        for fd in (*taken, limit):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_is_an_error_that_says_what_to_do(
    any_file: Path, descriptors_left: Callable[[int], None]
) -> None:
    descriptors_left(0)
    with pytest.raises(errors.ReadError) as caught:
        FileSource(str(any_file))
    assert str(caught.value) == f"{any_file}: too many open files; raise the limit with `ulimit -n`"


def test_too_many_open_files_for_a_second_descriptor_costs_only_direct_reads(
    file: Path, descriptors_left: Callable[[int], None]
) -> None:
    descriptors_left(1)
    found = read_file(file, DirectIO.ALWAYS)
    assert found == (file.read_bytes(), Origin.BUFFERED)


@pytest.mark.parametrize("hidden", [False, True], ids=["cachestat", "mincore"])
@pytest.mark.parametrize("direct", DirectIO)
def test_closing_leaves_no_descriptor_open(any_file: Path, direct: DirectIO, hidden: bool) -> None:
    before = descriptors(any_file)
    source = FileSource(str(any_file), direct, page_cache=by_mincore if hidden else PageCache)
    read(source)
    opened = descriptors(any_file)
    source.close()
    assert (opened > before, descriptors(any_file)) == (True, before)


def test_a_source_that_is_dropped_leaves_no_descriptor_open(any_file: Path) -> None:
    before = descriptors(any_file)
    source = FileSource(str(any_file))
    del source
    gc.collect()
    assert descriptors(any_file) == before


def test_closing_twice_does_not_close_somebody_elses_file(any_file: Path) -> None:
    source = FileSource(str(any_file), DirectIO.ALWAYS)
    source.close()
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    try:
        source.close()
        assert [os.fstat(fd).st_rdev for fd in others] == [os.stat("/dev/null").st_rdev] * 3
    finally:
        for fd in others:
            os.close(fd)


def test_closing_again_after_a_ctrl_c_in_it_does_not_close_somebody_elses_file(
    any_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close
    closed: list[int] = []

    def interrupted(fd: int) -> None:
        closed.append(fd)
        close(fd)
        if len(closed) == 1:
            raise KeyboardInterrupt

    source = FileSource(str(any_file), DirectIO.ALWAYS)
    monkeypatch.setattr(os, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.close()
    source.close()
    assert len(set(closed)) == len(closed) == 2


@pytest.mark.parametrize("direct", DirectIO)
def test_reading_after_closing_is_an_error(any_file: Path, direct: DirectIO) -> None:
    source = FileSource(str(any_file), direct)
    source.close()
    with pytest.raises(errors.ReadError, match="Bad file descriptor"):
        read(source)
