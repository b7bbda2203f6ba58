import gc
import threading
import weakref

import pytest

from runai_model_streamer.lifecycle import Lifecycle, Stopped
from tests.checkpoints import PATIENCE


def test_a_load_begins_as_running() -> None:
    lifecycle = Lifecycle()
    lifecycle.check()
    assert lifecycle.running
    assert lifecycle.forget_error() is None


def test_a_failure_stops_it() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail(ValueError("first"))
    assert not lifecycle.running
    with pytest.raises(Stopped):
        lifecycle.check()


def test_the_first_error_wins() -> None:
    lifecycle = Lifecycle()
    first = ValueError("first")
    lifecycle.fail(first)
    lifecycle.fail(ValueError("second"))
    assert lifecycle.forget_error() is first


def test_an_error_before_the_close_is_kept() -> None:
    lifecycle = Lifecycle()
    first = ValueError("first")
    lifecycle.fail(first)
    lifecycle.close()
    assert lifecycle.forget_error() is first


def test_an_error_after_the_close_is_none() -> None:
    lifecycle = Lifecycle()
    lifecycle.close()
    lifecycle.fail(ValueError("late"))
    assert not lifecycle.running
    assert lifecycle.forget_error() is None


def test_an_error_is_given_out_once() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail(ValueError("first"))
    lifecycle.forget_error()
    assert lifecycle.forget_error() is None
    assert not lifecycle.running


class _Memory:
    """Stands for a reader's buffer."""


def test_an_error_does_not_keep_the_memory_of_the_reader_that_failed() -> None:
    lifecycle = Lifecycle()
    alive: list[weakref.ref[_Memory]] = []

    def fill() -> None:
        memory = _Memory()
        alive.append(weakref.ref(memory))
        raise OSError("the cause")

    def read() -> None:
        memory = _Memory()
        alive.append(weakref.ref(memory))
        try:
            fill()
        except OSError as cause:
            raise ValueError("the error") from cause

    def run() -> None:
        try:
            read()
        except ValueError as error:
            lifecycle.fail(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    error = lifecycle.forget_error()
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, OSError)
    assert error.__traceback__ is not None
    assert [memory() for memory in alive] == [None, None]


def test_stopping_wakes_each_waker_once() -> None:
    lifecycle = Lifecycle()
    woken: list[str] = []
    lifecycle.on_stop(lambda: woken.append("one"))
    lifecycle.on_stop(lambda: woken.append("two"))
    lifecycle.close()
    lifecycle.fail(ValueError())
    lifecycle.close()
    assert woken == ["one", "two"]


def test_wakers_see_the_new_state() -> None:
    lifecycle = Lifecycle()
    seen: list[bool] = []
    lifecycle.on_stop(lambda: seen.append(lifecycle.running))
    lifecycle.fail(ValueError())
    assert seen == [False]


def test_a_stopped_load_lets_go_of_its_parts() -> None:
    lifecycle = Lifecycle()

    class Part:
        def wake(self) -> None:
            pass

    part = Part()
    gone = weakref.ref(part)
    lifecycle.on_stop(part.wake)
    lifecycle.close()
    gc.disable()
    try:
        del part
        assert gone() is None
    finally:
        gc.enable()


class _Waiting:
    """A thread in `wait_for`, from the moment it has looked at its condition for the first time."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.met = False
        self.looked = threading.Semaphore(0)
        self.ended: str | None = None
        self._lifecycle = lifecycle
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.looked.acquire(timeout=PATIENCE)

    def _condition(self) -> bool:
        self.looked.release()
        return self.met

    def _run(self) -> None:
        try:
            self._lifecycle.wait_for(self._condition)
            self.ended = "met"
        except Stopped:
            self.ended = "stopped"

    def join(self) -> str | None:
        self._thread.join(PATIENCE)
        return self.ended


def test_a_wait_ends_when_its_condition_has_come_true() -> None:
    lifecycle = Lifecycle()
    waiting = _Waiting(lifecycle)
    waiting.met = True
    lifecycle.notify()
    assert waiting.join() == "met"


def test_a_wait_goes_on_while_its_condition_is_false() -> None:
    lifecycle = Lifecycle()
    waiting = _Waiting(lifecycle)
    lifecycle.notify()
    assert waiting.looked.acquire(timeout=PATIENCE)  # it has looked again, and waits again
    waiting.met = True
    lifecycle.notify()
    assert waiting.join() == "met"


def test_a_failure_ends_a_wait() -> None:
    lifecycle = Lifecycle()
    waiting = _Waiting(lifecycle)
    lifecycle.fail(ValueError())
    assert waiting.join() == "stopped"


def test_closing_ends_a_wait() -> None:
    lifecycle = Lifecycle()
    waiting = _Waiting(lifecycle)
    lifecycle.close()
    assert waiting.join() == "stopped"


def test_a_wait_after_the_end_is_refused_even_if_its_condition_holds() -> None:
    lifecycle = Lifecycle()
    lifecycle.close()
    with pytest.raises(Stopped):
        lifecycle.wait_for(lambda: True)
