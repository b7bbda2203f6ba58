"""The real kvikio reads through `io.gds`, on the emulated CUDA driver: each test in a process with a time limit."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from runai_model_streamer.config import GdsMode
from runai_model_streamer.errors import GdsUnavailableError, ReadError, SourceChangedError, TruncatedError
from runai_model_streamer.io.files.gds import GdsFile, open_gds
from runai_model_streamer.io.files.posix import FileSource
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs
from tests.io.files.cufile import EmulatedCufile
from tests.io.files.local_files import descriptors, evict, require_evicted, require_local_disk

pytestmark = needs("kvikio", "cuda.bindings")

SIZE: Final = (5 << 20) + 123
MARGIN: Final = 1000
"""Bytes in front of what is read, and behind it; no alignment helps us."""

SPANS: Final = {
    "aligned": (0, 1 << 20),
    "aligned, past the first page": (8192, 4096),
    "small": (4096, 16),
    "unaligned start": (3, 1 << 20),
    "unaligned end": (4096, (1 << 20) + 1),
    "unaligned both, and larger than kvikio's tasks": (4097, (4 << 20) + 3),
    "tail": (SIZE - 100, 100),
    "last byte": (SIZE - 1, 1),
    "all": (0, SIZE),
    "nothing": (77, 0),
    "nothing, at the end": (SIZE, 0),
}


def check(result: tuple[Any, ...]) -> Any:
    """The value of a call of cuda.bindings, which returns its error first."""
    assert not int(result[0]), result[0]
    return result[1] if len(result) > 1 else None


class Device:
    """An allocation of device memory with margins, whose content can be looked at."""

    def __init__(self, length: int) -> None:
        self.use_in_this_thread()
        from cuda.bindings import driver

        self._length = length
        self._size = length + 2 * MARGIN
        self._start = int(check(driver.cuMemAlloc(self._size)))
        check(driver.cuMemsetD8(self._start, 0x77, self._size))
        check(driver.cuCtxSynchronize())
        self.pointer = self._start + MARGIN

    @staticmethod
    def use_in_this_thread() -> None:
        """What the landing's threads do too."""
        from cuda.bindings import driver

        check(driver.cuInit(0))
        check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(0))))

    def content(self) -> bytes:
        """What lies in the middle; the margins must be as they were."""
        from cuda.bindings import driver

        found = np.empty(self._size, np.uint8)
        check(driver.cuMemcpyDtoH(found.ctypes.data, self._start, self._size))
        assert (found[:MARGIN] == 0x77).all(), "bytes in front of the target were written to"
        assert (found[self._size - MARGIN :] == 0x77).all(), "bytes behind the target were written to"
        return found[MARGIN : MARGIN + self._length].tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes())
    return path


@pytest.fixture
def source(path: Path) -> Iterator[FileSource]:
    source = FileSource(str(path))
    yield source
    source.close()


@pytest.fixture
def disk(tmp_path: Path) -> None:
    """Skips where the temporary folder is on no file system that GPUDirect would read."""
    require_local_disk(tmp_path)


def settings() -> list[str]:
    """kvikio's settings, of the whole process."""
    import kvikio.defaults

    names = ("compat_mode", "num_threads", "task_size", "gds_threshold", "bounce_buffer_size")
    return [str(kvikio.defaults.get(name)) for name in names]


def gpudirect(source: FileSource) -> GdsFile:
    """What reads the file by GPUDirect, which the emulated cuFile says is there."""
    file = open_gds(source, GdsMode.ALWAYS)
    assert file is not None
    return file


def assert_reads_every_span(file: GdsFile, path: Path) -> None:
    whole = path.read_bytes()
    for name, (offset, length) in SPANS.items():
        device = Device(length)
        file.read_into_device(offset, device.pointer, length)
        assert device.content() == whole[offset : offset + length], name


@emulated()
def test_every_kind_of_range_lands_by_kvikios_own_path(emulator: Emulator, source: FileSource, path: Path) -> None:
    Device.use_in_this_thread()
    before = settings()
    file = GdsFile(source)
    assert_reads_every_span(file, path)
    assert settings() == before
    file.close()


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy", "eager"))
def test_every_kind_of_range_lands_by_gpudirect(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource, path: Path
) -> None:
    Device.use_in_this_thread()
    before = settings()
    file = gpudirect(source)
    assert_reads_every_span(file, path)
    assert emulated_cufile.reads == sum(length > 0 for _, length in SPANS.values())
    assert settings() == before
    file.close()
    assert emulated_cufile.registered == 0


@emulated(modes=("lazy",))
def test_many_threads_read_one_file(emulator: Emulator, source: FileSource, path: Path) -> None:
    whole, file = path.read_bytes(), GdsFile(source)
    wrong: list[int] = []

    def read_many(thread: int) -> None:
        for offset in range(thread * 1001, SIZE, 8 * 250_007):
            device = Device(length := min(250_007, SIZE - offset))
            file.read_into_device(offset, device.pointer, length)
            if device.content() != whole[offset : offset + length]:
                wrong.append(offset)

    threads = [threading.Thread(target=read_many, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@emulated(modes=("lazy",))
def test_a_read_past_the_end_is_told_as_such(emulator: Emulator, source: FileSource) -> None:
    device, file = Device(4096), GdsFile(source)
    for offset in (SIZE - 4095, SIZE, SIZE + 4096):
        with pytest.raises(TruncatedError, match=rf"{source.path}: ends at byte {SIZE}, but bytes {offset}-"):
            file.read_into_device(offset, device.pointer, 4096)


@emulated(modes=("lazy",))
def test_a_file_that_is_cut_short_during_the_load_is_told_as_such(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    device, file = Device(4096), GdsFile(source)
    os.truncate(path, 5000)
    with pytest.raises(TruncatedError, match=rf"ends at byte 5000.*was {SIZE} bytes long when opened"):
        file.read_into_device(4096, device.pointer, 4096)


@emulated(modes=("lazy",))
def test_a_file_that_is_written_to_during_the_load_is_told_as_such(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    device, file = Device(4096), GdsFile(source)
    file.read_into_device(0, device.pointer, 4096)
    os.utime(path, ns=(0, 0))
    with pytest.raises(SourceChangedError, match=rf"{source.path}.*bytes 4096-8192"):
        file.read_into_device(4096, device.pointer, 4096)


@emulated(modes=("lazy",))
def test_it_stays_the_file_that_was_opened_when_the_path_is_replaced(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    expected = path.read_bytes()[:4096]
    path.rename(path.with_suffix(".old"))
    path.write_bytes(bytes(SIZE))
    device, file = Device(4096), GdsFile(source)
    file.read_into_device(0, device.pointer, 4096)
    assert device.content() == expected


@emulated(modes=("lazy",))
def test_a_failure_of_cuda_names_the_file_and_the_range(emulator: Emulator, source: FileSource) -> None:
    device, file = Device(1 << 20), GdsFile(source)
    # Which of them kvikio calls depends on the driver's version.
    for call in ("cuMemcpyBatchAsync", "cuMemcpyHtoDAsync", "cuMemcpyAsync"):
        emulator.fail(call, nth=0, code=700)
    with pytest.raises(ReadError, match=rf"{source.path}: bytes 8-1048584: .*ILLEGAL_ADDRESS"):
        file.read_into_device(8, device.pointer, 1 << 20)


@emulated(modes=("lazy",))
def test_a_closed_file_gives_its_descriptors_back_and_reads_no_more(emulator: Emulator, source: FileSource) -> None:
    before = descriptors(source.path)
    device, file = Device(16), GdsFile(source)
    assert descriptors(source.path) > before
    file.interrupt()
    file.close()
    file.close()
    assert descriptors(source.path) == before
    with pytest.raises(ReadError, match="is closed"):
        file.read_into_device(0, device.pointer, 16)


@emulated(modes=("lazy",))
def test_auto_where_gpudirect_is_impossible_goes_another_way_and_says_why(
    emulator: Emulator, source: FileSource, caplog: pytest.LogCaptureFixture
) -> None:
    Device.use_in_this_thread()
    caplog.set_level(logging.DEBUG, logger="runai_model_streamer")
    before = descriptors(source.path)
    assert open_gds(source, GdsMode.AUTO) is None
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert f"{source.path}: no GPUDirect: " in record.getMessage()
    with pytest.raises(GdsUnavailableError, match=rf"{source.path}: RUNAI_STREAMER_GDS=1, but"):
        open_gds(source, GdsMode.ALWAYS)
    assert descriptors(source.path) == before


@emulated(modes=("lazy",))
def test_who_switched_kvikios_compatibility_mode_on_is_told_so(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("KVIKIO_COMPAT_MODE", "ON")
    with pytest.raises(GdsUnavailableError, match="KVIKIO_COMPAT_MODE"):
        open_gds(source, GdsMode.ALWAYS)


@pytest.mark.usefixtures("emulated_cufile")
@emulated(modes=("lazy",))
def test_a_missing_kernel_module_is_named(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("CUFILE_NO_DRIVER", "1")
    with pytest.raises(GdsUnavailableError, match="nvidia-fs is not loaded"):
        open_gds(source, GdsMode.ALWAYS)


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_mount_that_cufile_does_not_take_is_told_in_its_words(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("CUFILE_REFUSE", "5008")
    before = descriptors(source.path)
    with pytest.raises(GdsUnavailableError, match=r"mount \(\w+\): .*not supported on current file"):
        open_gds(source, GdsMode.ALWAYS)
    assert open_gds(source, GdsMode.AUTO) is None
    assert descriptors(source.path) == before


@pytest.mark.usefixtures("emulated_cufile")
@emulated(modes=("lazy",))
def test_a_file_in_memory_is_not_for_gpudirect(emulator: Emulator) -> None:
    path = Path(f"/dev/shm/gds-{os.getpid()}")
    path.write_bytes(bytes(4096))
    try:
        with pytest.raises(GdsUnavailableError, match="tmpfs"):
            open_gds(FileSource(str(path)), GdsMode.ALWAYS)
    finally:
        path.unlink()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_auto_uses_gpudirect_for_a_file_on_disk(emulator: Emulator, source: FileSource) -> None:
    require_evicted(source.path)
    file = open_gds(source, GdsMode.AUTO)
    assert file is not None
    file.close()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_auto_leaves_what_is_in_memory_or_shared_to_the_page_cache(
    emulator: Emulator, source: FileSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="runai_model_streamer")
    assert open_gds(source, GdsMode.AUTO) is None
    evict(source.path)
    assert open_gds(source, GdsMode.AUTO, shared=True) is None
    cached, shared = (record.getMessage() for record in caplog.records)
    assert "in the page cache already" in cached
    assert "other processes of this node" in shared
    always = open_gds(source, GdsMode.ALWAYS, shared=True)
    assert always is not None
    always.close()


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_a_read_that_cufile_cuts_short_goes_on_behind_it(
    emulator: Emulator, emulated_cufile: EmulatedCufile, monkeypatch: pytest.MonkeyPatch, source: FileSource, path: Path
) -> None:
    monkeypatch.setenv("CUFILE_AT_MOST", "700001")
    device = Device(3_000_000)
    file = gpudirect(source)
    file.read_into_device(5, device.pointer, 3_000_000)
    assert device.content() == path.read_bytes()[5:3_000_005]
    assert emulated_cufile.reads == 5
    file.close()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_failure_of_cufile_is_told_in_its_words(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("CUFILE_FAIL", "5012")
    device = Device(4096)
    file = gpudirect(source)
    with pytest.raises(ReadError, match=rf"{source.path}: bytes 0-4096: .*invalid device pointer"):
        file.read_into_device(0, device.pointer, 4096)
    file.close()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_read_into_memory_that_a_stream_still_works_on_is_reported_by_the_emulator(
    emulator: Emulator, source: FileSource
) -> None:
    from cuda.bindings import driver

    device = Device(4096)
    file = gpudirect(source)
    stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    check(driver.cuMemsetD8Async(device.pointer, 0, 4096, stream))
    file.read_into_device(0, device.pointer, 4096)
    assert {misuse.kind for misuse in emulator.take_misuses()} == {"host-access"}
    check(driver.cuStreamSynchronize(stream))
    file.read_into_device(0, device.pointer, 4096)
    assert emulator.take_misuses() == []
    file.close()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_other_threads_run_while_a_read_waits(
    emulator: Emulator, source: FileSource, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(4096)
    file = gpudirect(source)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("CUFILE_WAIT_FOR", str(gate))
    # Were the interpreter held, this thread would never open the gate, and the time limit end the test.
    opener = threading.Thread(target=lambda: os.close(os.open(gate, os.O_WRONLY)))
    opener.start()
    file.read_into_device(0, device.pointer, 4096)
    opener.join()
    assert device.content() == path.read_bytes()[:4096]
    file.close()
