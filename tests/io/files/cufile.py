"""A cuFile that says GPUDirect Storage is there, for tests on the emulated CUDA driver; see emulated_cufile.c.

    @needs("kvikio", "cuda.bindings")
    @emulated()
    def test_a_thing(emulator: Emulator, emulated_cufile: EmulatedCufile) -> None: ...

The fixture, which all tests of this folder have, prepares the environment of the process that `emulated` starts; the C
file's settings are read at each call, so that a test makes them by `monkeypatch.setenv`.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).with_name("emulated_cufile.c")
LIBRARY: Final = "libcufile.so.0"


class EmulatedCufile:
    """What cuFile was asked for in this process."""

    @property
    def reads(self) -> int:
        """Calls of cuFileRead."""
        return int(ctypes.CDLL(LIBRARY).cufile_reads())

    @property
    def registered(self) -> int:
        """Files that are registered now."""
        return int(ctypes.CDLL(LIBRARY).cufile_registered())


@pytest.fixture(scope="session")
def _cufile_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the emulated cuFile needs a C compiler: neither gcc nor cc is on the PATH")
    library = tmp_path_factory.mktemp("cufile") / LIBRARY
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, f"-Wl,-soname,{LIBRARY}", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


@pytest.fixture
def emulated_cufile(_cufile_library: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedCufile:
    """Preloaded in processes that are started from now on, with kvikio told to use it."""
    monkeypatch.setenv("LD_PRELOAD", str(_cufile_library))
    # AUTO looks for /run/udev, which containers lack. OFF is safe with this cuFile only.
    monkeypatch.setenv("KVIKIO_COMPAT_MODE", "OFF")
    return EmulatedCufile()
