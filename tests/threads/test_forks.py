import os
from collections.abc import Callable

from runai_model_streamer.threads.forks import OwnProcess, keep_in_children


def in_a_child(answer: Callable[[], bool]) -> bool:
    """Whether `answer()` is True in a forked child."""
    child = os.fork()
    if not child:
        os._exit(0 if answer() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_child_knows_that_it_is_not_the_process_that_made_an_object() -> None:
    process = OwnProcess()
    assert not process.forked
    assert in_a_child(lambda: process.forked)
    assert not process.forked


class Mapping:
    """Memory that says when it is freed."""

    def __init__(self, freed: list[int]) -> None:
        self._freed = freed

    def __del__(self) -> None:
        self._freed.append(os.getpid())


class Pool:
    def __init__(self, *mappings: Mapping) -> None:
        self.mappings = list(mappings)

    def missing_in_children(self) -> list[Mapping]:
        return self.mappings


def test_a_child_never_frees_what_it_has_no_memory_for() -> None:
    freed: list[int] = []
    pool = Pool(Mapping(freed), Mapping(freed))
    keep_in_children(pool)

    def let_go() -> bool:
        pool.mappings.clear()
        return freed == []

    assert in_a_child(let_go)
    pool.mappings.clear()
    assert freed == [os.getpid()] * 2
