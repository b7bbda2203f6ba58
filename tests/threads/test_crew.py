import threading

import pytest

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.threads.crew import Crew
from tests.checkpoints import PATIENCE

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Gate:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.names: list[str] = []

    def __call__(self) -> None:
        self.names.append(threading.current_thread().name)
        assert self.open.wait(PATIENCE)


def test_threads_are_daemons_with_a_name_and_a_number() -> None:
    gate, crew = Gate(), Crew("tester", "test")
    assert [crew.add(gate) for _ in range(3)] == [True] * 3
    gate.open.set()
    assert crew.join() == []
    assert sorted(gate.names) == ["runai-tester-0", "runai-tester-1", "runai-tester-2"]
    assert all(thread.daemon for thread in crew.threads)


def test_a_join_that_has_waited_long_enough_names_those_that_still_work() -> None:
    gate, crew = Gate(), Crew("tester", "test")
    crew.add(lambda: None)
    crew.threads[0].join(PATIENCE)
    crew.add(gate)
    assert crew.join(0) == ["runai-tester-1"]
    gate.open.set()
    assert crew.join(PATIENCE) == []


def test_a_join_waits_for_the_threads_that_a_thread_has_started() -> None:
    gate, crew = Gate(), Crew("tester", "test")
    crew.add(lambda: crew.add(gate))
    crew.threads[0].join(PATIENCE)
    assert crew.join(0) == ["runai-tester-1"]
    gate.open.set()
    assert crew.join() == []


def test_a_system_that_gives_no_more_threads_is_told_from_one_that_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    given = 0

    def limited(thread: threading.Thread) -> None:
        if len(crew.threads) > given:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)  # the system's answer
    crew = Crew("tester", "test")
    with pytest.raises(StreamerError, match=r"no thread to test with: can't start new thread; .*ulimit -u"):
        crew.add(lambda: None)
    given = 1
    assert [crew.add(lambda: None) for _ in range(3)] == [True, False, False]
    assert crew.join() == []
