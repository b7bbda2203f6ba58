"""The stores, each started once. Without `make test-stores` nothing in here is collected: they take minutes."""

import os
from collections.abc import Iterator

import pytest

from tests.stores.running import STORES, Store

if not os.environ.get("TEST_STORES"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", params=STORES)
def real_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that runs."""
    yield from STORES[request.param](tmp_path_factory.mktemp(request.param))
