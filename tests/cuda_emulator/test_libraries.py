"""The real CUDA libraries on the emulated driver, and the decorator that gives a test a process of its own."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import peek, poke
from tests.cuda_emulator.testing import emulated, needs

ROOT = Path(__file__).parents[2]


def checked(result: tuple[object, ...]) -> int:
    """The value of a call of cuda.bindings."""
    code, *values = result
    assert int(code) == 0  # type: ignore[call-overload]
    return int(values[0]) if values else 0  # type: ignore[call-overload]


@needs("cuda.bindings")
@emulated()
def test_cuda_bindings_show_a_slot_used_too_early_and_a_consumer_that_does_not_wait(emulator: Emulator) -> None:
    from cuda.bindings import driver as cu

    checked(cu.cuInit(0))
    checked(cu.cuCtxSetCurrent(checked(cu.cuDevicePrimaryCtxRetain(0))))
    copy, compute, event = checked(cu.cuStreamCreate(1)), checked(cu.cuStreamCreate(1)), checked(cu.cuEventCreate(2))
    slot, out = checked(cu.cuMemHostAlloc(1024, 0)), checked(cu.cuMemHostAlloc(1024, 0))

    def load(slot_waits: bool, consumer_waits: bool) -> int:
        image, result = checked(cu.cuMemAlloc(1024)), checked(cu.cuMemAlloc(1024))
        poke(slot, b"\1" * 1024)
        checked(cu.cuMemcpyHtoDAsync(image, slot, 1024, copy))
        checked(cu.cuEventRecord(event, copy))
        if slot_waits:
            checked(cu.cuEventSynchronize(event))
        poke(slot, b"\2" * 1024)
        if consumer_waits:
            checked(cu.cuStreamWaitEvent(compute, event, 0))
        checked(cu.cuMemcpyDtoDAsync(result, image, 1024, compute))
        checked(cu.cuMemcpyDtoHAsync(out, result, 1024, compute))
        checked(cu.cuStreamSynchronize(compute))
        checked(cu.cuCtxSynchronize())
        checked(cu.cuMemFree(image))
        checked(cu.cuMemFree(result))
        return peek(out)[0]

    assert load(slot_waits=True, consumer_waits=True) == 1
    assert emulator.misuses() == []
    emulator.set_mode("lazy")
    assert load(slot_waits=False, consumer_waits=True) == 2
    assert [misuse.kind for misuse in emulator.take_misuses()] == ["source-changed"]
    assert load(slot_waits=True, consumer_waits=True) == 1
    assert load(slot_waits=False, consumer_waits=False) == 0xA5
    assert [misuse.kind for misuse in emulator.take_misuses()] == ["race", "source-changed"]
    for stream in (copy, compute):
        checked(cu.cuStreamDestroy(stream))
    for memory in (slot, out):
        checked(cu.cuMemFreeHost(memory))
    checked(cu.cuEventDestroy(event))
    assert emulator.leaks() == {}


@needs("cuda.bindings")
@emulated()
def test_the_driver_can_be_an_older_one(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_EMULATOR_DRIVER_VERSION", "12080")
    from cuda.bindings import driver as cu

    checked(cu.cuInit(0))
    assert checked(cu.cuDriverGetVersion()) == 12080
    checked(cu.cuCtxSetCurrent(checked(cu.cuDevicePrimaryCtxRetain(0))))
    checked(cu.cuMemFree(checked(cu.cuMemAlloc(16))))


@needs("cuda.core")
@emulated()
def test_cuda_core_streams_events_and_pinned_memory(emulator: Emulator) -> None:
    from cuda.bindings import driver as cu
    from cuda.core import Device, EventOptions, LegacyPinnedMemoryResource, PinnedMemoryResource, StreamOptions

    device = Device(0)
    device.set_current()
    copy, compute = (device.create_stream(options=StreamOptions(nonblocking=True)) for _ in range(2))
    slot, out = LegacyPinnedMemoryResource().allocate(64), LegacyPinnedMemoryResource().allocate(64)
    # The pool of pinned memory is there from CUDA 13 on.
    pooled = [PinnedMemoryResource().allocate(64, stream=copy)] if hasattr(cu, "cuMemGetMemPool") else []
    image, result = device.allocate(64, stream=copy), device.allocate(64, stream=compute)
    copy.sync()
    poke(int(slot.handle), b"\7" * 64)
    slot.copy_to(image, stream=copy)
    event = copy.record(options=EventOptions(timing_enabled=False))
    compute.wait(event)
    image.copy_to(result, stream=compute)
    result.copy_to(out, stream=compute)
    done = compute.record()
    while not done.is_done:
        pass
    assert peek(int(out.handle), 64) == b"\7" * 64
    image.fill(3, stream=copy)
    copy.sync()
    for buffer in (image, result, *pooled):
        buffer.close(copy)
    copy.sync()
    for buffer in (slot, out):
        buffer.close()
    del event, done
    copy.close()
    compute.close()
    assert emulator.leaks() == {}


@needs("cuda.core")
@emulated(modes=["lazy"])
def test_cuda_core_raises_what_the_driver_returns(emulator: Emulator) -> None:
    from cuda.core import Device, LegacyPinnedMemoryResource

    device = Device(0)
    device.set_current()
    stream = device.create_stream()
    emulator.fail("cuMemAllocHost", 1, 2)
    with pytest.raises(Exception, match="CUDA_ERROR_OUT_OF_MEMORY"):
        LegacyPinnedMemoryResource().allocate(64)
    slot, image = LegacyPinnedMemoryResource().allocate(64), device.allocate(64, stream=stream)
    emulator.fail_when_run("cuMemcpyAsync", 1, 719)
    slot.copy_to(image, stream=stream)
    with pytest.raises(Exception, match="CUDA_ERROR_LAUNCH_FAILED"):
        stream.sync()


@needs("kvikio", "cuda.bindings")
@emulated(modes=["lazy", "eager"], seconds=120)
def test_kvikio_reads_a_file_into_device_memory(emulator: Emulator, tmp_path: Path) -> None:
    import kvikio
    import kvikio.defaults
    from cuda.bindings import driver as cu

    checked(cu.cuInit(0))
    checked(cu.cuCtxSetCurrent(checked(cu.cuDevicePrimaryCtxRetain(0))))
    data = bytes(range(256)) * 12_345
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    image = checked(cu.cuMemAlloc(len(data)))

    described = {"data": (image, False), "shape": (len(data),), "typestr": "|u1", "version": 3, "strides": None}
    device_bytes = types.SimpleNamespace(__cuda_array_interface__=described)
    with kvikio.defaults.set({"num_threads": 2, "task_size": 1 << 20}), kvikio.CuFile(str(path), "r") as file:
        assert file.pread(device_bytes).get() == len(data)
    assert peek(image, len(data)) == data
    assert any(call.startswith("cuMemcpy") for call in emulator.calls())


# The decorator itself

_TESTS = """
import time
from pathlib import Path

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs

@emulated()
def test_passes(emulator: Emulator, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert emulator.library.cuInit(0) == 0
    assert emulator.calls() == ["cuInit"]
    assert tmp_path.is_dir()

@emulated(modes=["lazy"])
@pytest.mark.parametrize("number", [1, 2])
def test_parameter(emulator: Emulator, number: int) -> None:
    assert number == 1, "the number is wrong"

@emulated(modes=["lazy"])
def test_misuse(emulator: Emulator) -> None:
    emulator.library.cuInit(0)
    emulator.library.cuMemFree_v2(8)

@emulated(modes=["lazy"])
def test_skips(emulator: Emulator) -> None:
    pytest.skip("for a reason")

@needs("cuda.unheard_of")
@emulated(modes=["lazy"])
def test_needs(emulator: Emulator) -> None:
    raise AssertionError

@emulated(modes=["lazy"], seconds=10)
def test_spins(emulator: Emulator) -> None:
    while True:
        time.sleep(0.01)
"""


def test_an_emulated_test_passes_fails_skips_and_ends_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "test_inner.py"
    path.write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    command += ["-c", str(ROOT / "pyproject.toml"), f"--basetemp={tmp_path / 'inner'}", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if "needs a C compiler" in done.stdout:
        pytest.skip("the emulated CUDA driver needs a C compiler")
    lines = done.stdout.splitlines()
    outcomes = {line.split("::")[1].split()[0]: line.split()[1] for line in lines if "::test" in line and "%]" in line}
    assert outcomes == {
        "test_passes[lazy]": "PASSED",
        "test_passes[eager]": "PASSED",
        "test_passes[random]": "PASSED",
        "test_parameter[1-lazy]": "PASSED",
        "test_parameter[2-lazy]": "FAILED",
        "test_misuse[lazy]": "FAILED",
        "test_skips[lazy]": "SKIPPED",
        "test_needs[lazy]": "SKIPPED",
        "test_spins[lazy]": "FAILED",
    }, done.stdout
    for expected in ("the number is wrong", "invalid-free", "for a reason", "cuda.unheard_of", "in test_spins"):
        assert expected in done.stdout


def test_what_needs_packages_of_the_gpu_says_so_with_needs() -> None:
    """`make test-cuda` runs the files that import it."""
    other = re.compile(r'(importorskip|find_spec)\(\s*"(cuda|cupy|kvikio|nvtx)\b')
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent != ROOT / "tests" / "gpu"]
    assert [str(path) for path in files if other.search(path.read_text())] == []


def test_a_process_without_the_emulator_is_told_so() -> None:
    # Whatever else the loader finds by that name.
    script = "import ctypes; ctypes.CDLL = lambda name: ctypes.pythonapi\n"
    script += "from tests.cuda_emulator import Emulator; Emulator.attach()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "libcuda.so.1 of this process is not the emulator" in done.stderr
