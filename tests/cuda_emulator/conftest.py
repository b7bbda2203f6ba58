"""For tests of the emulator itself."""

import pytest

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.driver import Driver


@pytest.fixture
def cuda(emulator: Emulator) -> Driver:
    return Driver(emulator)
