"""Memory that processes share: anonymous, allocated, sealed, and not in children."""

import os
import re
import resource
from pathlib import Path

import pytest

from runai_model_streamer.distributed.ring.slots import Slots, create
from runai_model_streamer.io.libc import kernel_release
from runai_model_streamer.ranges import HUGE_PAGE, PAGE


def test_what_one_mapping_is_written_another_has() -> None:
    file = create(3, PAGE)
    try:
        first, second = Slots(3, PAGE, file), Slots(3, PAGE, file)
    finally:
        os.close(file)
    first.slot(2, 5)[:] = b"bytes"
    assert bytes(second.slot(2, 6)) == b"bytes\0"
    assert bytes(second.slot(1, PAGE)) == bytes(PAGE)


def test_a_python_that_does_not_know_the_call_asks_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    file = create(2, PAGE)
    made = Slots(2, PAGE, file)
    assert not os.get_inheritable(file)
    os.close(file)
    made.slot(1, 1)[:] = b"x"


def test_a_machine_without_the_call_is_an_error_that_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="not implemented"):
        create(1, PAGE, calls={})


def test_it_has_no_name_that_outlives_its_processes() -> None:
    before = set(os.listdir("/dev/shm"))
    file = create(1, PAGE)
    made = Slots(1, PAGE, file)
    assert os.fstat(file).st_nlink == 0
    assert set(os.listdir("/dev/shm")) == before
    os.close(file)
    del made


def test_it_cannot_be_cut_short_under_those_that_map_it() -> None:
    file = create(2, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(file, PAGE)
    os.close(file)


def test_memory_of_another_size_is_refused() -> None:
    file = create(2, PAGE)
    with pytest.raises(OSError, match="not of the size agreed on"):
        Slots(3, PAGE, file)
    os.close(file)


def test_memory_that_could_still_be_cut_short_is_refused() -> None:
    file = os.memfd_create("unsealed")
    os.ftruncate(file, PAGE)
    with pytest.raises(OSError, match=r"not of the size agreed on|Invalid argument"):
        Slots(1, PAGE, file)
    os.close(file)


def test_too_little_memory_is_an_error_at_once_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            create(2, PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_forked_child_does_not_have_it() -> None:
    file = create(1, PAGE)
    made = Slots(1, PAGE, file)
    os.close(file)
    made.slot(0, 1)[:] = b"x"
    child = os.fork()
    if not child:
        with open("/proc/self/maps") as maps:
            os._exit("runai-streamer-ring" in maps.read())
    assert os.waitpid(child, 0)[1] == 0
    with open("/proc/self/maps") as maps:
        assert "runai-streamer-ring" in maps.read()
    del made


def _huge_bytes(name: str) -> int:
    """Bytes of this process's mappings of a file that are huge pages."""
    entries = re.split(r"^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    found = [re.search(r"^ShmemPmdMapped: +(\d+) kB", each, re.MULTILINE) for each in entries if name in each]
    return sum(int(each[1]) << 10 for each in found if each is not None)


def test_it_is_made_of_huge_pages_in_each_process_that_maps_it() -> None:
    if kernel_release() < (6, 1) or not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("the kernel makes no huge pages of shared memory on request")
    size = 3 * HUGE_PAGE // 2 - PAGE
    file = create(3, size)
    first, second = Slots(3, size, file), Slots(3, size, file)
    os.close(file)
    first.slot(2, size)[:] = b"x" * size
    assert bytes(second.slot(2, size)) == b"x" * size
    for slots in (first, second):
        for index in range(3):
            slots.slot(index, 1)[:] = b"y"
    found = _huge_bytes("runai-streamer-ring")
    assert found >= 2 * HUGE_PAGE  # the same pages, mapped twice
    assert found % HUGE_PAGE == 0


def test_all_of_it_is_there_before_it_is_used_whatever_of_it_is_huge() -> None:
    for count, size in ((1, PAGE), (1, HUGE_PAGE), (3, HUGE_PAGE + PAGE), (5, 3 * PAGE)):
        file = create(count, size)
        assert os.fstat(file).st_blocks * 512 == count * size
        os.close(file)
