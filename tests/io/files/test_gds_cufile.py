"""Reads by the emulated cuFile, on the emulated CUDA driver: each test in a process with a time limit."""

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
from runai_model_streamer.io.files.cufile import RegisteredMemory
from runai_model_streamer.io.files.gds import GdsFile, open_gds
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.ranges import PAGE, round_up
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs
from tests.io.files.cufile import EmulatedCufile
from tests.io.files.local_files import descriptors, evict, require_evicted, require_local_disk

pytestmark = needs("cuda.bindings")

SIZE: Final = (5 << 20) + 123
MARGIN: Final = PAGE
"""Bytes in front of what is read, and behind the page that it ends in."""

SPANS: Final = {
    "aligned": (0, 1 << 20),
    "aligned, past the first page": (8192, 4096),
    "small": (4096, 16),
    "unaligned start": (3, 1 << 20),
    "unaligned end": (4096, (1 << 20) + 1),
    "unaligned both, and large": (4097, (4 << 20) + 3),
    "to the end": (4 << 20, SIZE - (4 << 20)),
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
    """An allocation of device memory with margins, pinned for cuFile, whose content can be looked at."""

    def __init__(self, length: int, *, registered: bool = True) -> None:
        self.use_in_this_thread()
        from cuda.bindings import driver

        self._length = length
        self._size = round_up(length, PAGE) + 2 * MARGIN
        self._allocated = int(check(driver.cuMemAlloc(self._size + PAGE)))
        self.base = round_up(self._allocated, PAGE)
        check(driver.cuMemsetD8(self.base, 0x77, self._size))
        check(driver.cuCtxSynchronize())
        self._memory = RegisteredMemory(self.base, self._size) if registered else None

    @staticmethod
    def use_in_this_thread() -> None:
        """What the landing's threads do too."""
        from cuda.bindings import driver

        check(driver.cuInit(0))
        check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(0))))

    def read(self, file: GdsFile, offset: int) -> bytes:
        """What the file has from this offset on."""
        file.read_into_device(offset, self._length, self.base, MARGIN)
        return self.content()

    def content(self) -> bytes:
        """What lies in the middle; the margins must be as they were."""
        from cuda.bindings import driver

        found = np.empty(self._size, np.uint8)
        check(driver.cuMemcpyDtoH(found.ctypes.data, self.base, self._size))
        assert (found[:MARGIN] == 0x77).all(), "bytes in front of the target were written to"
        assert (found[-MARGIN:] == 0x77).all(), "bytes behind the target's last page were written to"
        return found[MARGIN : MARGIN + self._length].tobytes()

    def close(self) -> None:
        from cuda.bindings import driver

        if self._memory is not None:
            self._memory.close()
        check(driver.cuMemFree(self._allocated))


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


def gpudirect(source: FileSource) -> GdsFile:
    """What reads the file by GPUDirect, which the emulated cuFile says is there."""
    file = open_gds(source, GdsMode.ALWAYS)
    assert file is not None
    return file


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy", "eager"))
def test_every_kind_of_range_lands(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource, path: Path
) -> None:
    whole, file = path.read_bytes(), gpudirect(source)
    for name, (offset, length) in SPANS.items():
        device = Device(length)
        assert device.read(file, offset) == whole[offset : offset + length], name
        device.close()
    file.close()
    assert emulated_cufile.left() == {}


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_reads_that_begin_on_a_page_go_directly_into_registered_memory(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource
) -> None:
    file = gpudirect(source)
    for name, (offset, length) in SPANS.items():
        before = emulated_cufile.count("indirect")
        Device(length).read(file, offset)
        went_directly = emulated_cufile.count("indirect") == before
        assert went_directly == (offset % PAGE == 0 or not length), name
    before = emulated_cufile.count("indirect")
    Device(PAGE, registered=False).read(file, 0)
    assert emulated_cufile.count("indirect") == before + 1


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_no_read_waits_for_the_callers_stream(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource
) -> None:
    device, file = Device(1 << 20), gpudirect(source)
    emulator.reset()
    device.read(file, 0)
    assert {call for call in emulator.calls() if "Synchronize" in call} == set()


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_cufile_is_opened_once_in_a_process(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource
) -> None:
    for _ in range(3):
        gpudirect(source).close()
    assert emulated_cufile.count("opened") == 1
    assert emulated_cufile.left() == {}


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_many_threads_read_one_file(
    emulator: Emulator, emulated_cufile: EmulatedCufile, source: FileSource, path: Path
) -> None:
    whole, file = path.read_bytes(), gpudirect(source)
    wrong: list[int] = []

    def read_many(thread: int) -> None:
        for offset in range(thread * 1001, SIZE, 8 * 250_007):
            length = min(250_007, SIZE - offset)
            if Device(length).read(file, offset) != whole[offset : offset + length]:
                wrong.append(offset)

    threads = [threading.Thread(target=read_many, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_read_past_the_end_is_told_as_such(emulator: Emulator, source: FileSource) -> None:
    device, file = Device(4096), gpudirect(source)
    for offset in (SIZE - 4095, SIZE, SIZE + 4096):
        with pytest.raises(TruncatedError, match=rf"{source.path}: ends at byte {SIZE}, but bytes {offset}-"):
            device.read(file, offset)


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_file_that_is_cut_short_during_the_load_is_told_as_such(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    device, file = Device(4096), gpudirect(source)
    os.truncate(path, 5000)
    with pytest.raises(TruncatedError, match=rf"ends at byte 5000.*was {SIZE} bytes long when opened"):
        device.read(file, 4096)


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_file_that_is_written_to_during_the_load_is_told_as_such(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    device, file = Device(4096), gpudirect(source)
    device.read(file, 0)
    os.utime(path, ns=(0, 0))
    with pytest.raises(SourceChangedError, match=rf"{source.path}.*bytes 4096-8192"):
        device.read(file, 4096)


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_it_stays_the_file_that_was_opened_when_the_path_is_replaced(
    emulator: Emulator, source: FileSource, path: Path
) -> None:
    expected = path.read_bytes()[:4096]
    path.rename(path.with_suffix(".old"))
    path.write_bytes(bytes(SIZE))
    device, file = Device(4096), gpudirect(source)
    assert device.read(file, 0) == expected


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_closed_file_gives_its_descriptors_back_and_reads_no_more(emulator: Emulator, source: FileSource) -> None:
    before = descriptors(source.path)
    device, file = Device(16), gpudirect(source)
    assert descriptors(source.path) > before
    file.interrupt()
    file.close()
    file.close()
    assert descriptors(source.path) == before
    with pytest.raises(ReadError, match="is closed"):
        device.read(file, 0)


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


@pytest.fixture
def no_module() -> None:
    """Skips on machines that have nvidia-fs."""
    if Path("/sys/module/nvidia_fs").exists():
        pytest.skip("nvidia-fs is loaded here")


@pytest.mark.usefixtures("no_module")
@emulated(modes=("lazy",))
def test_without_module_and_p2pdma_cufile_is_not_even_opened(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    monkeypatch: pytest.MonkeyPatch,
    source: FileSource,
    tmp_path: Path,
) -> None:
    (tmp_path / "cufile.json").write_text('{"properties": {\n// "use_pci_p2pdma": true,\n"use_pci_p2pdma": false}}')
    monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(tmp_path / "cufile.json"))
    monkeypatch.delenv("CUFILE_USE_PCIP2PDMA")
    with pytest.raises(GdsUnavailableError, match="nvidia-fs is not loaded, and PCI P2PDMA is not switched on"):
        open_gds(source, GdsMode.ALWAYS)
    assert emulated_cufile.count("opened") == 0


@pytest.mark.usefixtures("disk", "no_module")
@emulated(modes=("lazy",))
def test_p2pdma_that_the_configuration_switches_on_is_asked_for(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    monkeypatch: pytest.MonkeyPatch,
    source: FileSource,
    tmp_path: Path,
) -> None:
    (tmp_path / "cufile.json").write_text('{"properties": {\n  "use_pci_p2pdma" : true}}')
    monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(tmp_path / "cufile.json"))
    monkeypatch.delenv("CUFILE_USE_PCIP2PDMA")
    monkeypatch.setenv("CUFILE_NO_DRIVER", "1")
    # This cuFile reads no configuration, so it says that it is off.
    with pytest.raises(GdsUnavailableError, match="cuFile finds no kernel module nvidia-fs, and PCI P2PDMA is off"):
        open_gds(source, GdsMode.ALWAYS)
    assert emulated_cufile.count("opened") == 1


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_p2pdma_reads_without_the_module(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    monkeypatch: pytest.MonkeyPatch,
    source: FileSource,
    path: Path,
) -> None:
    monkeypatch.setenv("CUFILE_NO_DRIVER", "1")
    assert Device(8192).read(gpudirect(source), 4096) == path.read_bytes()[4096:12288]


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_p2pdma_is_not_used_where_cufile_would_take_any_file(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("CUFILE_NO_DRIVER", "1")
    monkeypatch.setenv("CUFILE_ALLOW_COMPAT_MODE", "true")
    with pytest.raises(GdsUnavailableError, match=r"compatibility mode.*CUFILE_ALLOW_COMPAT_MODE=false"):
        open_gds(source, GdsMode.ALWAYS)


@pytest.mark.usefixtures("disk")
@emulated(modes=("lazy",))
def test_memory_that_cufile_cannot_pin_is_told_so(
    emulator: Emulator, emulated_cufile: EmulatedCufile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUFILE_REFUSE_MEMORY", "5036")
    with pytest.raises(GdsUnavailableError, match=r"cannot pin 12288 bytes of device memory: .*5036"):
        Device(4096)
    assert emulated_cufile.left() == {}


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
    assert device.read(file, 5) == path.read_bytes()[5:3_000_005]
    assert emulated_cufile.count("reads") == 5
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
        device.read(file, 0)
    file.close()


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_failure_of_the_system_is_told_in_its_words(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, source: FileSource
) -> None:
    monkeypatch.setenv("CUFILE_ERRNO", "5")
    with pytest.raises(ReadError, match=r"bytes 0-4096: .*: Input/output error"):
        Device(4096).read(gpudirect(source), 0)


@pytest.mark.usefixtures("emulated_cufile", "disk")
@emulated(modes=("lazy",))
def test_a_read_into_memory_that_a_stream_still_works_on_is_reported_by_the_emulator(
    emulator: Emulator, source: FileSource
) -> None:
    from cuda.bindings import driver

    device = Device(4096)
    file = gpudirect(source)
    stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    check(driver.cuMemsetD8Async(device.base + MARGIN, 0, 4096, stream))
    file.read_into_device(0, 4096, device.base, MARGIN)
    assert {misuse.kind for misuse in emulator.take_misuses()} == {"host-access"}
    check(driver.cuStreamSynchronize(stream))
    device.read(file, 0)
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
    device.read(file, 0)
    opener.join()
    assert device.content() == path.read_bytes()[:4096]
    file.close()
