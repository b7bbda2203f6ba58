"""Containers whose seccomp profile forbids system calls: files are read right all the same."""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.cli.doctor import machine
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.files.stamps import Glance, stamp_of
from runai_model_streamer.origins import Origin
from tests.checkpoints import stored, write
from tests.io.contract import make_buffer
from tests.io.files.local_files import in_child, require_evicted, require_local_disk

T = TypeVar("T")

X86: Final = os.uname().machine == "x86_64"
ASYNCHRONOUS: Final = (*(range(206, 211) if X86 else range(5)), 333 if X86 else 292, 425, 426, 427)
"""Linux AIO and io_uring, which profiles forbid more than any other reads."""
WHAT_IS_CACHED: Final = (451, 27 if X86 else 232)
"""cachestat and mincore."""
STATX: Final = 332 if X86 else 291

pytestmark = pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="by system call numbers")


def forbidding(calls: Sequence[int], code: int, work: Callable[[], T]) -> T:
    """What `work` returns where these system calls fail with this errno."""

    def forbid_and_work() -> T:
        # Load the call's number; where it is one of these, return the errno, else allow.
        program = [(0x20, 0, 0, 0)]
        program += [(0x15, len(calls) - index, 0, call) for index, call in enumerate(calls)]
        program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | code)]
        text = b"".join(struct.pack("HBBI", *line) for line in program)
        lines = ctypes.create_string_buffer(text, len(text))
        head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(lines)))
        libc = ctypes.CDLL(None, use_errno=True)
        no_new_privileges, set_seccomp, filtered = 38, 22, 2
        if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filtered, head):
            pytest.skip(f"no seccomp filter here: {errno.errorcode[ctypes.get_errno()]}")
        return work()

    return in_child(forbid_and_work)


def origin_of(path: Path) -> tuple[Origin, bool]:
    """Where all of a file comes from, and whether its bytes are right."""
    with closing(FileSource(str(path))) as source:
        buffer = make_buffer(source.size)
        origin = source.read_into(0, buffer)
    return origin, bytes(buffer) == path.read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Some MiB on a local disk, nothing of it cached."""
    require_local_disk(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(3 << 20))
    require_evicted(path)
    return path


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_the_filter_forbids(code: int) -> None:
    def errno_of_io_setup() -> int:
        ctypes.set_errno(0)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(ASYNCHRONOUS[0], 1, ctypes.byref(ctypes.c_ulong())) == -1
        return ctypes.get_errno()

    assert forbidding(ASYNCHRONOUS, code, errno_of_io_setup) == code


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_direct_reads_need_neither_linux_aio_nor_io_uring(file: Path, code: int) -> None:
    assert forbidding(ASYNCHRONOUS, code, lambda: origin_of(file)) == (Origin.DISK, True)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_where_the_kernel_may_not_say_what_is_cached_reads_are_buffered(file: Path, code: int) -> None:
    assert forbidding(WHAT_IS_CACHED, code, lambda: origin_of(file)) == (Origin.BUFFERED, True)


def test_where_only_cachestat_is_forbidden_mincore_says_what_is_cached(file: Path) -> None:
    def work() -> tuple[str | None, tuple[Origin, bool]]:
        fd = os.open(file, os.O_RDONLY)
        call = PageCache(fd, os.fstat(fd)).call
        os.close(fd)
        return call, origin_of(file)

    assert forbidding(WHAT_IS_CACHED[:1], errno.EPERM, work) == ("mincore", (Origin.DISK, True))


def test_where_a_glance_at_a_file_is_forbidden_it_may_have_changed(file: Path) -> None:
    def work() -> tuple[list[bool], tuple[Origin, bool]]:
        with file.open("rb") as opened:
            glance = Glance(opened.fileno(), stamp_of(os.fstat(opened.fileno())), local=True)
            return [glance.may_differ, glance.may_differ], origin_of(file)

    # With ENOSYS the C library asks by another call.
    assert forbidding([STATX], errno.EPERM, work) == ([True, True], (Origin.DISK, True))


@pytest.mark.parametrize(
    ("calls", "way"),
    [
        (ASYNCHRONOUS, "past the page cache, up to 4MiB at once"),
        (WHAT_IS_CACHED, "through the page cache: the kernel does not say what it holds"),
    ],
)
def test_the_report_says_how_files_were_read_and_why(tmp_path: Path, calls: Sequence[int], way: str) -> None:
    require_local_disk(tmp_path)
    path = write(tmp_path / "model.safetensors", {"t": stored("U8", (3 << 20,), seed=1)})
    require_evicted(Path(path))

    def work() -> dict[str, int]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(path))
            for _ in streamer.get_tensors():
                pass
            return dict(streamer.report.ways)

    assert forbidding(calls, errno.EPERM, work) == {way: 1}


def test_doctor_says_what_is_forbidden_and_that_asynchronous_reads_are_not_missed() -> None:
    def work() -> list[tuple[str, str]]:
        return [(check.status, check.remedy) for check in machine.kernel() if check.name == "page cache"]

    allow = "allow cachestat or mincore in the container's seccomp profile"
    assert forbidding(WHAT_IS_CACHED, errno.EPERM, work) == [("warning", allow)]
    assert [status for status, _ in forbidding(ASYNCHRONOUS, errno.EPERM, work)] == ["ok"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_load_is_right_where_all_of_them_are_forbidden(tmp_path: Path, code: int) -> None:
    path = write(tmp_path / "model.safetensors", {f"t{i}": stored("U8", (1_000_001,), seed=i) for i in range(5)})

    def work() -> list[bytes]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(path))
            return [tensor.numpy().tobytes() for _, tensor in streamer.get_tensors()]

    right = [stored("U8", (1_000_001,), seed=i).data for i in range(5)]
    assert forbidding((*ASYNCHRONOUS, *WHAT_IS_CACHED, STATX), code, work) == right
