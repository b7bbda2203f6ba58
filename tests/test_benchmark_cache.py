"""benchmarks/cache.py: what it says of loads of the node's cache."""

from benchmarks.cache import Sample, evaluate, table


def sample(seconds: float, cache: dict[str, int] | None = None) -> Sample:
    return Sample(10**9, seconds, 0.1, 0.5, cache)


def counts(read: int, left_out: int = 0) -> dict[str, int]:
    return {"bytes_read": read, "bytes_written": 0, "bytes_left_out": left_out, "bytes_damaged": 0}


LOADS = {
    "local": [sample(1.0)],
    "without": [sample(2.0)],
    "first": [sample(2.2, counts(0, 10**8))],
    "second": [sample(1.0, counts(10**9))],
    "full": [sample(1.0, counts(10**9))],
}


def test_loads_are_compared_in_each_round() -> None:
    claims = evaluate({"fast": LOADS})
    assert [claim.text.removeprefix("fast: ") for claim in claims] == [
        "second / local",
        "full / local",
        "first / without",
        "second / without",
    ]
    assert [claim.passed for claim in claims] == [True, True, False, True]


def test_a_second_load_that_fetched_some_is_not_compared_with_local_files() -> None:
    claims = evaluate({"fast": LOADS | {"second": [sample(1.0, counts(9 * 10**8))]}})
    assert [claim.passed for claim in claims] == [None, True, False, True]
    assert "not all was in the cache" in claims[0].text


def test_the_table_has_what_came_from_the_cache_and_what_was_left_out() -> None:
    lines = table({"fast": LOADS}).splitlines()
    assert [cell.strip() for cell in lines[-1].split("|")[5:8]] == ["100", "1.000", "0.000"]
    assert lines[-3].split("|")[7].strip() == "0.100"
