"""What answers that are ten times as slow cost a load from a store that is made up, on its own clock."""

from statistics import median

import pytest

from tests.pipeline.slow_store import MB
from tests.pipeline.straggling import StragglingLoad

NGINX = 2 << 20
"""Bytes that nginx sends at once where it limits a rate."""


@pytest.mark.parametrize(
    ("gigabytes", "rate", "whole", "burst"),
    [(2, 30, 2000, NGINX), (4, 30, 2000, NGINX), (8, 90, 12_500, 1)],
)
def test_a_load_with_one_answer_in_fifty_ten_times_as_slow_takes_a_seventh_longer_and_fetches_little_twice(
    gigabytes: int, rate: int, whole: int, burst: int
) -> None:
    times, without = [], []
    size = 1000 * gigabytes * MB
    for seed in range(5):
        even, hedged, late = (
            StragglingLoad(seed, slow, size, rate * MB, whole * MB, 0.01, burst, hedged=hedges)
            for slow, hedges in ((0.0, True), (0.02, True), (0.02, False))
        )
        times.append(hedged.now / even.now)
        without.append(late.now / even.now)
        assert hedged.fetched <= 1.05 * size
        assert even.fetched <= 1.05 * size
    assert median(times) <= 1.15
    assert median(without) > 1.02
