"""What tests of object storage start from, and the emulated cuFile."""

import random
from collections.abc import Iterator

import pytest

from tests.io.files.cufile import _cufile_library, emulated_cufile
from tests.servers import Certificate, FaultServer, self_signed

__all__ = ["_cufile_library", "emulated_cufile"]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[FaultServer]:
    """A store in which the test module's `DATA` is s3://bucket/model.safetensors."""
    with FaultServer() as server:
        server.put("bucket", "model.safetensors", request.module.DATA)
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    try:
        return self_signed(tmp_path_factory.mktemp("certificate"))
    except FileNotFoundError:
        pytest.skip("no openssl program to make a certificate with")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The bounds, in seconds, between which each wait before another attempt was drawn; none lasts."""
    drawn: list[tuple[float, float]] = []

    def shortest(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", shortest)
    return drawn
