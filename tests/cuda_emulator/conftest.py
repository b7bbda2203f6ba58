"""The emulator for tests of the emulator: through ctypes, in this process."""

import ctypes
import shutil
from pathlib import Path

import pytest

from tests.cuda_emulator import Emulator, NoCompilerError, build
from tests.cuda_emulator.driver import Driver


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("emulator"), "emulator.so") / "emulator.so"
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def emulator(built: Path, tmp_path: Path) -> Emulator:
    """Lazy, and new: the loader knows a copy of the file as another library, with variables of its own."""
    return Emulator(ctypes.CDLL(str(shutil.copy(built, tmp_path / "emulator.so"))))


@pytest.fixture
def cuda(emulator: Emulator) -> Driver:
    return Driver(emulator)
