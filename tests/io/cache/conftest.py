"""Caches of the tests end with them."""

from collections.abc import Iterator

import pytest

from tests.io.cache.objects import made


@pytest.fixture(autouse=True)
def _caches_are_closed() -> Iterator[None]:
    yield
    while made:
        made.pop().close()
