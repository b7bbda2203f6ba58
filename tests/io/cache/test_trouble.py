"""What is said of a cache that keeps nothing."""

import logging

import pytest

from runai_model_streamer.io.cache.trouble import Trouble


@pytest.mark.parametrize(("sized", "warnings"), [(False, 1), (True, 0)])
def test_a_cache_without_a_size_warns_once_that_its_disk_is_too_full(
    sized: bool, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    trouble = Trouble("/nvme/models")
    for number in range(3):
        trouble.no_room(f"s3://models/{number}", sized=sized)
    assert len(caplog.records) == warnings
    assert all("CACHE_DIR=/nvme/models" in line and "set RUNAI_STREAMER_CACHE_SIZE" in line for line in caplog.messages)
    assert trouble.why is None
