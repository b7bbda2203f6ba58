"""The null disk of the benchmarks: what it answers without reading, and what it counts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ceiling import null_disk, null_gpu, objects, shows
from benchmarks.ceiling.rows import Row

KIB = 1 << 10

_READ = """
import ctypes, mmap, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
length = int(sys.argv[2])
memory = mmap.mmap(-1, length)
view = memoryview(memory)
found = {"preadv": lambda: os.preadv(fd, [view], 0), "readinto": lambda: open(fd, "rb", 0).readinto(view)}
if sys.argv[3] == "aio":
    libc = ctypes.CDLL(None, use_errno=True)
    context = ctypes.c_ulong()
    assert libc.syscall(206, 4, ctypes.byref(context)) == 0
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    request = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", 7, 0, 0, 0, 0, fd, address, length, 0, 0, 0, 0))
    one = (ctypes.c_void_p * 1)(ctypes.addressof(request))
    assert libc.syscall(209, context, ctypes.c_long(1), one) == 1
    events = ctypes.create_string_buffer(32)
    assert libc.syscall(208, context, ctypes.c_long(1), ctypes.c_long(1), events, None) == 1
    data, _, result, _ = struct.unpack("<QQqq", events.raw)
    assert data == 7
    print(result, sum(view[:100]))
else:
    print(found[sys.argv[3]](), sum(view[:100]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return null_disk.build(tmp_path_factory.mktemp("null_disk"))


def read(library: Path, folder: Path, length: int, call: str, header: int = 0) -> tuple[int, int, null_disk.Said]:
    """What a read of a file of ones returns, the sum of its first 100 bytes, and what the disk says."""
    file, report = folder / "file", folder / "report"
    file.write_bytes(b"\1" * length)
    environment = os.environ | null_disk.variables(library, 100, report, header=header)
    command = [sys.executable, "-c", _READ, str(file), str(length), call]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    landed, ones = map(int, done.stdout.split())
    return landed, ones, null_disk.said(report)


@pytest.mark.parametrize("call", ["preadv", "readinto"])
def test_a_small_read_is_real(library: Path, tmp_path: Path, call: str) -> None:
    assert read(library, tmp_path, 64 * KIB, call) == (64 * KIB, 100, null_disk.Said(0, 0, None))


@pytest.mark.parametrize("call", ["preadv", "readinto"])
def test_a_large_read_moves_no_byte_and_is_counted(library: Path, tmp_path: Path, call: str) -> None:
    landed, ones, said = read(library, tmp_path, 2048 * KIB, call)
    assert (landed, ones, said.reads, said.nbytes) == (2048 * KIB, 0, 1, 2048 * KIB)


@pytest.mark.parametrize("call", ["preadv", "readinto"])
def test_a_read_of_a_header_is_real_however_large(library: Path, tmp_path: Path, call: str) -> None:
    length = 2048 * KIB
    assert read(library, tmp_path, length, call, header=length) == (length, 100, null_disk.Said(0, 0, None))


def test_a_headers_length_is_that_of_the_file_with_the_longest_one(tmp_path: Path) -> None:
    for name, size in (("a", 24), ("b", 1000)):
        (tmp_path / name).write_bytes(size.to_bytes(8, "little") + b" " * size)
    assert null_disk.header_bytes([tmp_path / "a", tmp_path / "b"]) == 1008


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="by the system call numbers of x86-64")
@pytest.mark.parametrize(("length", "ones", "reads"), [(64 * KIB, 100, 0), (256 * KIB, 0, 1)])
def test_linux_aio_is_seen_too(library: Path, tmp_path: Path, length: int, ones: int, reads: int) -> None:
    landed, found, said = read(library, tmp_path, length, "aio")
    assert (landed, found, said.reads) == (length, ones, reads)


def test_a_load_of_objects_is_measured_on_a_store_that_answers_at_once() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    seconds, cpu, user, calls = objects.measure(ranges=30, readers=2)
    assert min(seconds, cpu, user) >= 0
    assert calls > 30 * 100


def test_processes_with_one_clock_read_one_disk(library: Path, tmp_path: Path) -> None:
    file, clock = tmp_path / "file", tmp_path / "clock"
    file.write_bytes(b"\1" * 1024 * KIB)
    environment = os.environ | null_disk.shared(library, 1.0, clock)
    free = []
    for _ in range(2):
        command = [sys.executable, "-c", _READ, str(file), str(1024 * KIB), "preadv"]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        free.append(int.from_bytes(clock.read_bytes(), sys.byteorder))
    assert free[1] - free[0] >= 1024 * KIB  # nanoseconds for as many bytes at 1 GB/s


def row(checkpoint: str, readers: int, loader: str, *speed: float, cpu: float = 0.01) -> Row:
    """Loads at these GB/s from the fastest disk."""
    return Row(checkpoint, shows.FAST, readers, loader, loader, list(speed), [cpu] * len(speed))


def test_what_was_wanted_is_compared_round_by_round_and_what_was_not_run_is_not_measured() -> None:
    rows = [
        row("large", 16, "ours", 100, 120, 80),
        row("large", 16, "peer", 50, 150, 100),
        row("large", 64, "ours", 100),
    ]
    found = {claim.text: (claim.value, claim.verdict) for claim in shows.claims_of(rows)}
    assert found["4 GB, 16 readers: GB/s"] == ("100.00", "pass")
    assert found["large, 16 readers: times peer"] == ("0.80 (rounds 0.80 to 2.00)", "MISS")
    assert found["4 GB: 64 readers, of 16"] == ("1.00", "pass")
    assert found["138 GB onto a GPU: GB/s"] == ("not measured", "-")


def test_a_gpus_cpu_time_is_that_of_8_mib() -> None:
    found = {claim.text: claim.value for claim in shows.claims_of([row("70b", 16, null_gpu.NAME, 90, cpu=0.005)])}
    assert found["138 GB onto a GPU: CPU us for 8 MiB"] == "41.94"
