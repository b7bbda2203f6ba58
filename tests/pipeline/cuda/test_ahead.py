"""How many groups get device memory ahead of the caller, and what a full device means."""

import threading

import pytest

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.cuda.ahead import GROUPS_AHEAD, Ahead
from tests.checkpoints import PATIENCE


class Device:
    """Memory for some groups at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = threading.Semaphore(0)

    def allocate(self) -> int:
        if not self.room:
            self.refused.release()
            raise OutOfMemoryError("the device is full")
        self.room -= 1
        return self.room


class Load:
    """Groups that a reader asks memory for, one after the other."""

    def __init__(self, room: int, most: int = 0, size: int = 0) -> None:
        self.lifecycle = Lifecycle()
        self.ahead = Ahead(self.lifecycle, most)
        self.size = size
        self.device = Device(room)
        self.given: list[int] = []
        self.error: Exception | None = None

    def give(self, first: int, last: int) -> threading.Thread:
        def run() -> None:
            try:
                for index in range(first, last + 1):
                    self.ahead.give(index, self.device.allocate, self.size)
                    self.given.append(index)
            except (OutOfMemoryError, Stopped) as error:
                self.error = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def full_then_taken(room: int, **sizes: int) -> Load:
    """A load whose device was full when it asked for the second group, until the caller took the first."""
    load = Load(room, **sizes)
    thread = load.give(0, 1)
    assert load.device.refused.acquire(timeout=PATIENCE)
    load.device.room = 9
    load.ahead.take()
    thread.join(PATIENCE)
    return load


def ends_waiting(load: Load) -> None:
    """Ask for the third group, end the load, and see that the group got no memory."""
    thread = load.give(2, 2)
    load.lifecycle.close()
    thread.join(PATIENCE)
    assert load.given == [0, 1]


def test_two_groups_are_ahead_of_the_caller() -> None:
    load = Load(room=5)
    load.give(0, 1).join(PATIENCE)
    thread = load.give(2, 2)
    assert load.given == list(range(GROUPS_AHEAD))
    load.ahead.take()
    thread.join(PATIENCE)
    assert load.given == [0, 1, 2]


def test_more_are_ahead_as_long_as_they_are_small() -> None:
    load = Load(room=9, most=35, size=10)
    load.give(0, 2).join(PATIENCE)
    thread = load.give(3, 3)
    assert load.given == [0, 1, 2]
    load.ahead.take()
    thread.join(PATIENCE)
    assert load.given == [0, 1, 2, 3]


def test_two_are_ahead_however_large() -> None:
    load = Load(room=9, most=35, size=100)
    load.give(0, 1).join(PATIENCE)
    assert load.given == [0, 1]


def test_once_the_device_was_full_one_is_ahead_however_small() -> None:
    ends_waiting(full_then_taken(1, most=35, size=10))


def test_a_full_device_is_asked_again_when_the_caller_takes_a_group() -> None:
    load = Load(room=1)
    thread = load.give(0, 1)
    assert load.device.refused.acquire(timeout=PATIENCE)
    load.device.room = 1
    load.ahead.take()
    thread.join(PATIENCE)
    assert load.given == [0, 1]
    assert load.error is None


def test_from_then_on_one_group_is_ahead() -> None:
    load = full_then_taken(1)
    ends_waiting(load)
    assert isinstance(load.error, Stopped)


def test_it_is_asked_once_more_when_the_caller_waits_for_that_group_and_then_it_is_an_error() -> None:
    load = Load(room=0)
    thread = load.give(0, 0)
    assert load.device.refused.acquire(timeout=PATIENCE)
    assert load.error is None
    load.ahead.await_group(0)
    thread.join(PATIENCE)
    assert load.device.refused.acquire(timeout=PATIENCE)
    assert isinstance(load.error, OutOfMemoryError)


def test_a_load_that_ends_meanwhile_ends_the_wait() -> None:
    load = Load(room=0)
    thread = load.give(0, 0)
    assert load.device.refused.acquire(timeout=PATIENCE)
    load.lifecycle.close()
    thread.join(PATIENCE)
    assert isinstance(load.error, Stopped)


def test_other_errors_are_not_waited_out() -> None:
    def broken() -> int:
        raise ValueError("broken")

    load = Load(room=0)
    with pytest.raises(ValueError, match="broken"):
        load.ahead.give(0, broken)
