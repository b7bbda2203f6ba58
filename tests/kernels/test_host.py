import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.kernels import oracle, samples

host: Any = pytest.importorskip("runai_model_streamer.kernels.host", reason="numba is not installed")

TORCH: Final = {
    "F8_E4M3": torch.float8_e4m3fn,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
}

# Where torch has no such loops, its NaNs differ (see `kernels.bits`); all else is the same everywhere.
TORCH_IS_THE_MEASURE_OF_NANS: Final = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")

pairs = pytest.mark.parametrize(("source", "target"), oracle.PAIRS)


def cast(data: npt.NDArray[np.uint8], source: str, target: str, half: bool | None = None) -> npt.NDArray[np.uint8]:
    made = np.full(len(data) // oracle.WIDTHS[source] * oracle.WIDTHS[target], 0xA5, np.uint8)
    host.cast(source, target, half)(data, made)
    return made


def torch_cast(data: npt.NDArray[np.uint8], source: str, target: str) -> npt.NDArray[np.uint8]:
    # A multiple of every vector's length, so that torch's loop for what is left over has nothing to do.
    padded = np.zeros(-(-len(data) // 4096) * 4096, np.uint8)
    padded[: len(data)] = data
    made = torch.from_numpy(padded).view(TORCH[source]).to(TORCH[target]).view(torch.uint8).numpy()
    return np.asarray(made[: len(data) // oracle.WIDTHS[source] * oracle.WIDTHS[target]], np.uint8)


def is_nan(data: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.bool_]:
    return torch.from_numpy(data.copy()).view(TORCH[dtype]).float().isnan().numpy()


@pytest.fixture(params=[True, False], ids=["instructions", "integers"])
def half(request: pytest.FixtureRequest) -> bool:
    """With the CPU's instructions for float16, and as on a CPU without them."""
    if request.param and not host.has_half_instructions():
        pytest.skip("this CPU has no instructions for float16")
    return bool(request.param)


@pairs
def test_every_value_is_cast_as_torch_casts_it(half: bool, source: str, target: str) -> None:
    data = samples.all_values(source)
    made, expected = cast(data, source, target, half), torch_cast(data, source, target)
    if not TORCH_IS_THE_MEASURE_OF_NANS:
        nan = is_nan(made, target)
        assert np.array_equal(nan, is_nan(expected, target))
        kept = np.repeat(~nan, oracle.WIDTHS[target])
        made, expected = made[kept], expected[kept]
    np.testing.assert_array_equal(made, expected)


@pairs
def test_every_value_is_cast_as_the_oracle_does(half: bool, source: str, target: str) -> None:
    data = samples.all_values(source)
    np.testing.assert_array_equal(cast(data, source, target, half), oracle.cast(data, source, target))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 15, 16, 17, 63, 64, 65, 1001])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
@pairs
def test_any_number_of_elements_at_any_address(source: str, target: str, offset: int, count: int) -> None:
    width, wide = oracle.WIDTHS[source], oracle.WIDTHS[target]
    data = np.random.default_rng(count).integers(0, 256, offset + count * width, np.uint8)[offset:]
    # The target may lie anywhere too; what is around it stays.
    memory = np.full(offset + count * wide + 5, 0xA5, np.uint8)
    host.cast(source, target)(data, memory[offset : offset + count * wide])
    np.testing.assert_array_equal(memory[offset : offset + count * wide], oracle.cast(data, source, target))
    assert set(memory[:offset].tolist() + memory[offset + count * wide :].tolist()) == {0xA5}


def test_the_threads_floating_point_state_changes_nothing() -> None:
    found: dict[str, npt.NDArray[np.uint8]] = {}

    def run() -> None:
        assert torch.set_flush_denormal(True)
        for source, target in oracle.PAIRS:
            found[source + target] = cast(samples.all_values(source), source, target)

    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU, or this torch, cannot flush subnormals to zero")
    thread = threading.Thread(target=run)  # the state is each thread's own
    thread.start()
    thread.join()
    for source, target in oracle.PAIRS:
        expected = oracle.cast(samples.all_values(source), source, target)
        np.testing.assert_array_equal(found[source + target], expected)


@pytest.mark.parametrize(("source", "target"), [(3, 4), (4, 4), (4, 6), (0, 4)])
def test_sizes_that_do_not_fit_are_refused(source: int, target: int) -> None:
    with pytest.raises(ValueError, match=f"{source} bytes in elements of 2 do not become {target} bytes"):
        host.cast("BF16", "F32")(np.zeros(source, np.uint8), np.zeros(target, np.uint8))


def test_kernels_run_without_the_gil() -> None:
    assert host.compiled_cast("BF16", "F32", True).targetoptions["nogil"]


def test_a_kernel_is_compiled_for_vectors() -> None:
    """Casting a checkpoint element by element would take longer than reading it."""
    if platform.machine() != "x86_64":
        pytest.skip("knows the names of x86-64's vector registers only")
    kept = host.compiled_cast("BF16", "F32", True)
    # What comes from disk has no assembly to look at.
    (assembly,) = host.numba.njit(kept.signatures)(kept.py_func).inspect_asm().values()
    assert "ymm" in assembly or "zmm" in assembly


_CAST = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
LIMIT
from runai_model_streamer.kernels import host
made = np.zeros(16, np.uint8)
host.cast("BF16", "F32")(np.frombuffer(bytes.fromhex("803f0040"), np.uint8), made[:8])
hits = sum(host.compiled_cast("BF16", "F32", host.has_half_instructions()).stats.cache_hits.values())
print(made[:8].view(np.float32).tolist(), hits)
"""


def run_with_cache(package: Path, script: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _CAST.replace("LIMIT", script), str(package)],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the kernels, into whose folder nothing can be written."""
    kernels = Path(host.__file__).parent
    copy = tmp_path / "site" / "runai_model_streamer" / "kernels"
    copy.mkdir(parents=True)
    (copy.parent / "__init__.py").touch()
    for path in kernels.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    # A file where numba wants a folder: that stops root as well.
    (copy / "__pycache__").touch()
    return tmp_path / "site"


def test_compiled_code_is_read_from_disk_the_next_time(package: Path, tmp_path: Path) -> None:
    for hits in (0, 1):
        done = run_with_cache(package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert (done.stdout, done.stderr) == (f"[1.0, 2.0] {hits}\n", "")


def test_other_sources_do_not_use_what_was_compiled_before(package: Path, tmp_path: Path) -> None:
    """`bits` is not the file that numba watches."""
    run_with_cache(package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    with (package / "runai_model_streamer" / "kernels" / "bits.py").open("a") as file:
        file.write("# changed\n")
    assert run_with_cache(package, NUMBA_CACHE_DIR=str(tmp_path / "cache")).stdout == "[1.0, 2.0] 0\n"


def test_without_a_place_for_compiled_code_it_is_not_kept(package: Path) -> None:
    done = run_with_cache(package, XDG_CACHE_HOME="/proc/nonexistent")
    assert (done.stdout, done.stderr) == ("[1.0, 2.0] 0\n", "")


def test_a_disk_that_is_full_does_not_matter(package: Path, tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    done = run_with_cache(package, full, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.stdout, done.stderr) == ("[1.0, 2.0] 0\n", "")


def test_a_damaged_file_of_compiled_code_does_not_matter(package: Path, tmp_path: Path) -> None:
    run_with_cache(package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    done = run_with_cache(package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.stdout, done.stderr) == ("[1.0, 2.0] 0\n", "")
