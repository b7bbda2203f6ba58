"""The emulated CUDA driver itself: that it is as late, as strict and as forgetful as CUDA may be."""

from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs


@emulated()
def test_smoke(emulator: Emulator) -> None:
    assert emulator.library.cuInit(0) == 0
    assert emulator.calls() == ["cuInit"]


@needs("cuda.bindings")
@emulated()
def test_bindings(emulator: Emulator) -> None:
    from cuda.bindings import driver

    assert driver.cuInit(0)[0] == 0
