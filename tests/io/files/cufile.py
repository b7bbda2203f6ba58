"""A cuFile that says GPUDirect Storage is there, for tests on the emulated CUDA driver; see emulated_cufile.c.

    @needs("cuda.bindings")
    @emulated()
    def test_a_thing(emulator: Emulator, emulated_cufile: EmulatedCufile) -> None: ...

The fixture, which all tests of this folder have, prepares the environment of the process that `emulated` starts; the C
file's settings are read at each call, so that a test makes them by `monkeypatch.setenv`.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

import pytest

SOURCE: Final = Path(__file__).with_name("emulated_cufile.c")
LIBRARY: Final = "libcufile.so.0"

Counted = Literal["files", "memory", "opened", "reads", "indirect", "faults"]


class EmulatedCufile:
    """What cuFile was asked for in this process."""

    def count(self, what: Counted) -> int:
        """How many; see the C file."""
        return int(ctypes.CDLL(LIBRARY).cufile_count(what.encode()))

    def left(self) -> dict[str, int]:
        """What is still registered, and faults: nothing, where all is well."""
        counts = {what: self.count(what) for what in ("files", "memory", "faults")}
        return {what: count for what, count in counts.items() if count}


@pytest.fixture(scope="session")
def _cufile_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the emulated cuFile needs a C compiler: neither gcc nor cc is on the PATH")
    library = tmp_path_factory.mktemp("cufile") / LIBRARY
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [*command, f"-Wl,-soname,{LIBRARY}", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True
    )
    return library


@pytest.fixture
def emulated_cufile(_cufile_library: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedCufile:
    """Preloaded in processes that are started from now on."""
    monkeypatch.setenv("LD_PRELOAD", str(_cufile_library))
    # Without either, cuFile is not opened on machines without nvidia-fs; and compatibility mode wants /run/udev.
    monkeypatch.setenv("CUFILE_USE_PCIP2PDMA", "true")
    monkeypatch.setenv("CUFILE_ALLOW_COMPAT_MODE", "false")
    return EmulatedCufile()
