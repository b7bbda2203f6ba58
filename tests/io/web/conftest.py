"""A web server, and another one on another host: `localhost`, where the first is 127.0.0.1."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.io.models import need_libcurl
from tests.io.web.servers import WebServers
from tests.servers import FaultServer

DATA: Final = random.Random(8).randbytes(700_003)


@pytest.fixture
def servers() -> Iterator[WebServers]:
    """`origin` redirects nowhere by itself; both have the file /models/model.safetensors."""
    need_libcurl()
    with FaultServer() as origin, FaultServer() as other:
        for server in (origin, other):
            server.put("models", "model.safetensors", DATA)
        yield WebServers(origin, other)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home directory, empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
