"""The stages of a load's set-up, on a clock that the test moves."""

import threading

import pytest

from runai_model_streamer.io.setup_time import SetupClock, SetupSeconds


class Now:
    """Seconds, when told to pass."""

    def __init__(self) -> None:
        self.seconds = 5.0

    def __call__(self) -> float:
        return self.seconds


def test_a_stage_within_another_counts_once() -> None:
    now = Now()
    clock = SetupClock(now)
    with clock.during("imports"):
        now.seconds += 1.0
        with clock.during("credentials"):
            now.seconds += 4.0
        now.seconds += 0.5
    assert clock.seconds == SetupSeconds(imports=1.5, credentials=4.0)
    assert clock.seconds.all == 5.5


def test_a_stage_that_fails_counts() -> None:
    now = Now()
    clock = SetupClock(now)

    def fail() -> None:
        with clock.during("credentials"):
            now.seconds += 2.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert clock.seconds == SetupSeconds(credentials=2.0)


def test_only_the_first_of_blocks_that_count_once_does() -> None:
    now = Now()
    clock = SetupClock(now)
    for _ in range(3):
        with clock.once("credentials"):
            now.seconds += 1.0
    assert clock.seconds == SetupSeconds(credentials=1.0)


def test_the_first_connection_is_a_stage_and_all_of_them_are_counted() -> None:
    clock = SetupClock()
    for seconds in (0.0, 0.25, 0.5, 0.0, 1.0):
        clock.connected(seconds)
    assert clock.seconds == SetupSeconds(connecting=0.25)
    assert clock.connect_seconds == 1.75


def test_no_count_of_many_threads_is_lost() -> None:
    clock = SetupClock()

    def connect() -> None:
        for _ in range(1000):
            clock.connected(1.0)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.connect_seconds == 4000.0
