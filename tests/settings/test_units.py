"""Numbers of bytes as readers see them."""

import pytest

from runai_model_streamer.settings.parsers import parse_size
from runai_model_streamer.settings.units import limit_text, log_text, rate_text, setting_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.7, "1.00 kB"),
        (62_914, "62.9 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (316_000_000, "316 MB"),
        (4_312_000_000, "4.31 GB"),
        (15_000_000_000_000, "15.0 TB"),
        (5e21, "5000000 PB"),
    ],
)
def test_sizes_have_three_digits_in_powers_of_1000(count: float, text: str) -> None:
    assert size_text(count) == text


def test_speeds_have_the_same_units() -> None:
    speeds = [rate_text(count, 2.0) for count in (2.5e9, 3e6, 1999.8, 0)]
    assert speeds == ["1.25 GB/s", "1.50 MB/s", "1.00 kB/s", "0 bytes/s"]
    assert rate_text(5, 0.0) == "0 bytes/s"


@pytest.mark.parametrize(
    ("count", "text"),
    [(8 << 20, "8MiB"), (6 << 30, "6GiB"), (1537, "1537"), (500_000_000, "500MB"), (4 * 10**9, "4GB"), (0, "0")],
)
def test_a_setting_is_shown_as_its_variable_takes_it(count: int, text: str) -> None:
    assert setting_text(count) == text
    assert parse_size(text) == count


def test_a_limit_is_shown_as_it_was_set_and_as_what_was_counted_is() -> None:
    assert limit_text(320 << 20) == "320MiB (336 MB)"
    assert limit_text(340_000_001) == "340 MB"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 Bytes"),
        (1, "1 Bytes"),
        (1023, "1023 Bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (2_621_440, "2.5 MiB"),
        (15 << 30, "15.0 GiB"),
        (3.7 * (1 << 30), "3.7 GiB"),
        (1 << 40, "1.0 TiB"),
        (5 << 50, "5120.0 TiB"),
        (12.4, "12 Bytes"),
    ],
)
def test_the_logs_sizes_stay_as_the_original_has_them(count: float, text: str) -> None:
    assert log_text(count) == text
