import gc
from collections.abc import Iterator

import pytest

from runai_model_streamer.checkpoint.gc_pause import gc_paused


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


class Cycle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.me = self


def collections(count: int) -> int:
    """How often the collector looks at anything while so many objects are made."""
    seen: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(note)
    try:
        kept = [Cycle() for _ in range(count)]
        del kept
    finally:
        gc.callbacks.remove(note)
    return seen.count("stop")


def test_nothing_is_collected_in_a_pause() -> None:
    with gc_paused():
        assert collections(10_000) == 0
    assert collections(10_000) > 0


def test_the_collector_runs_again_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyboardInterrupt), gc_paused():
        raise KeyboardInterrupt
    assert (gc.isenabled(), gc.get_threshold()) == (True, before)


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with gc_paused():
        pass
    assert not gc.isenabled()


def test_a_collector_that_the_host_switches_off_meanwhile_stays_off() -> None:
    with gc_paused():
        gc.disable()
    assert not gc.isenabled()


def test_thresholds_that_the_host_sets_meanwhile_stay() -> None:
    with gc_paused():
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_a_pause_within_a_pause_does_not_end_it() -> None:
    with gc_paused():
        with gc_paused():
            pass
        assert collections(10_000) == 0


def test_no_collection_is_due_for_what_a_pause_has_made() -> None:
    with gc_paused():
        kept = [[index] for index in range(10_000)]
    assert collections(10) == 0
    assert gc.get_count()[1:] == (0, 0)
    assert len(kept) == 10_000


def test_garbage_of_a_pause_is_found_by_a_full_collection() -> None:
    with gc_paused():
        for _ in range(1000):
            Cycle()
    assert gc.collect() >= 1000


def test_what_the_host_has_frozen_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with gc_paused():
        pass
    assert gc.get_freeze_count() == frozen
