"""The libraries for torch are made from what the installed one asks for: here, of one that this machine compiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_emulator import NoCompilerError, compile_library, environment
from tests.cuda_emulator.elf import Import, SharedLibrary
from tests.cuda_emulator.torch_libraries import RUNTIME, TorchError, build_for_torch

TORCH = """
int cudaGetDeviceCount(int *count);
int cudaOfTomorrow(void);
int cublasOfToday(void);
int ncclWithoutVersion(void);
double cos(double x);
int devices(void) { int count = -1; cudaGetDeviceCount(&count); return count + 0 * (int)cos(0); }
int tomorrow(void) { return cudaOfTomorrow(); }
int multiply(void) { return cublasOfToday(); }
int gather(void) { return ncclWithoutVersion(); }
"""


def given_by(folder: Path, library: str, functions: str, version: str | None) -> list[str]:
    """Make a library that defines functions, to link with; the options for it."""
    source, map_ = folder / f"{library}.c", folder / f"{library}.map"
    names = functions.split()
    source.write_text(
        "".join(f'__attribute__((visibility("default"))) int {name}(void) {{ return 0; }}' for name in names)
    )
    map_.write_text(f"{version} {{ global: *; }};")
    compile_library(folder / library, [source], [f"-Wl,--version-script={map_}"] if version else [])
    return [f"-L{folder}", f"-l:{library}"]


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """With a torch that was linked with libraries of NVIDIA's, which are not there any more."""
    theirs, torch = tmp_path / "theirs", tmp_path / "site-packages/torch/lib"
    theirs.mkdir()
    torch.mkdir(parents=True)
    source = tmp_path / "torch.c"
    source.write_text(TORCH)
    try:
        linked = [
            *given_by(theirs, RUNTIME, "cudaGetDeviceCount cudaOfTomorrow", RUNTIME),
            *given_by(theirs, "libcublas.so.13", "cublasOfToday", "libcublas.so.13"),
            *given_by(theirs, "libnccl.so.2", "ncclWithoutVersion", None),
        ]
        compile_library(torch / "libtorch_cuda.so", [source], ["-fvisibility=default", *linked, "-lm"])
    except NoCompilerError as error:
        pytest.skip(str(error))
    return tmp_path / "site-packages"


def call(site_packages: Path, folder: Path, function: str) -> subprocess.CompletedProcess[str]:
    """A function of that torch's, in a process that prints what it returns."""
    library = site_packages / "torch/lib/libtorch_cuda.so"
    script = f"import ctypes; print(ctypes.CDLL({str(library)!r}).{function}())"
    variables = environment(folder, {**os.environ, "CUDA_EMULATOR_DEVICES": "3"})
    return subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False)


def test_what_a_library_needs_and_gives_is_read_from_its_file(site_packages: Path) -> None:
    library = SharedLibrary(site_packages / "torch/lib/libtorch_cuda.so")
    assert {RUNTIME, "libcublas.so.13", "libnccl.so.2"} <= set(library.needed)
    assert {"devices", "tomorrow", "multiply"} <= library.defined
    assert Import("cudaOfTomorrow", RUNTIME, RUNTIME) in library.imports
    assert Import("cublasOfToday", "libcublas.so.13", "libcublas.so.13") in library.imports
    assert Import("ncclWithoutVersion", None, None) in library.imports


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a library, though long enough")
    with pytest.raises(ValueError, match="not a shared library"):
        SharedLibrary(tmp_path / "text")


def test_torch_finds_the_emulated_runtime(site_packages: Path, tmp_path: Path) -> None:
    folder = build_for_torch(tmp_path / "emulated", site_packages)
    assert call(site_packages, folder, "devices").stdout == "3\n"


def test_what_the_runtime_does_not_have_says_its_name_and_fails(site_packages: Path, tmp_path: Path) -> None:
    done = call(site_packages, build_for_torch(tmp_path / "emulated", site_packages), "tomorrow")
    assert done.stdout == "801\n"
    assert "cudaOfTomorrow" in done.stderr


@pytest.mark.parametrize(("function", "name"), [("multiply", "cublasOfToday"), ("gather", "ncclWithoutVersion")])
def test_a_stub_that_is_called_ends_the_process_with_its_name(
    site_packages: Path, tmp_path: Path, function: str, name: str
) -> None:
    done = call(site_packages, build_for_torch(tmp_path / "emulated", site_packages), function)
    assert done.returncode < 0
    assert name in done.stderr


def test_a_torch_without_cuda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TorchError, match="no PyTorch for libcudart"):
        build_for_torch(tmp_path / "emulated", tmp_path)


def test_a_runtime_that_torch_would_prefer_is_refused(site_packages: Path, tmp_path: Path) -> None:
    real = site_packages / "nvidia/cu13/lib" / RUNTIME
    real.parent.mkdir(parents=True)
    real.touch()
    with pytest.raises(TorchError, match="--no-deps"):
        build_for_torch(tmp_path / "emulated", site_packages)
