"""The search for a setting, on a machine whose speed is made up."""

import itertools
import random
from collections.abc import Callable

import pytest

from runai_model_streamer.cli.tune.search import Found, Setting, candidates, search
from runai_model_streamer.errors import StreamerError

MIB = 1 << 20
DEFAULT = Setting(16, 4 * MIB, -1)
OTHERS = candidates(DEFAULT, 2 * MIB, 100 * MIB)
SIZE = 1e9

Speed = Callable[[Setting, int], float]
"""Bytes per second of a setting, in the run of this number."""


class Machine:
    """Measures what `speed` says, and takes the time for it."""

    def __init__(self, speed: Speed) -> None:
        self.now = 0.0
        self.runs: list[Setting] = []
        self._speed = speed

    def measure(self, setting: Setting, maximum: float) -> tuple[float, float]:
        speed = self._speed(setting, len(self.runs))
        seconds = min(SIZE / speed, maximum)
        self.now += seconds
        self.runs.append(setting)
        return speed * seconds, seconds

    def search(self, budget: float = 60.0) -> Found:
        return search(DEFAULT, OTHERS, self.measure, budget, lambda: self.now)


def noise(seed: int, share: float) -> Callable[[], float]:
    chance = random.Random(seed)
    return lambda: 1 + chance.uniform(-share, share)


def test_candidates_differ_in_one_thing_each() -> None:
    assert DEFAULT not in OTHERS
    assert len(set(OTHERS)) == len(OTHERS)
    for each in OTHERS:
        assert sum(mine != theirs for mine, theirs in zip(each, DEFAULT, strict=True)) == 1
    assert {each.concurrency for each in OTHERS} == {4, 8, 16, 32, 64}
    assert {each.chunk // MIB for each in OTHERS} == {2, 4, 8, 16}


def test_no_candidate_has_a_limit_below_the_largest_tensor() -> None:
    largest = 3000 * MIB + 1
    for limit in (-1, 0, 3001 * MIB):
        found = candidates(DEFAULT._replace(limit=limit), 2 * MIB, largest)
        limits = {each.limit for each in found if each.limit not in (-1, limit)}
        assert all(each >= largest for each in limits)
        assert len({each.limit for each in found}) >= 2


def test_for_objects_the_concurrency_is_a_number_of_connections() -> None:
    setting = DEFAULT._replace(objects=True)
    assert setting._replace(concurrency=32).changes_from(setting) == {"RUNAI_STREAMER_CONNECTIONS": "32"}


def test_chunks_that_are_none_are_not_tried() -> None:
    found = candidates(Setting(8, 8 * MIB, -1), 5 * MIB, 1)
    assert {each.chunk // MIB for each in found} == {8, 16, 32}


@pytest.mark.parametrize("seed", range(5))
def test_a_faster_setting_is_found_in_spite_of_noise(seed: int) -> None:
    wobble = noise(seed, 0.04)
    machine = Machine(lambda setting, _: (1.4e9 if setting.concurrency == 32 else 1e9) * wobble())
    assert machine.search().best.setting.concurrency == 32


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_never_beats_the_default(seed: int) -> None:
    wobble = noise(seed, 0.10)
    found = Machine(lambda setting, _: 1e9 * wobble()).search()
    assert found.best is found.default or found.best.ratio(found.default) < 1.1


def test_a_machine_that_becomes_faster_favours_nobody() -> None:
    # The first runs are slow, as while a disk's cache fills or a benchmark next door ends.
    found = Machine(lambda setting, run: 1e9 * (1 + min(run, 40) / 40)).search()
    assert found.best is found.default


def test_what_is_better_in_two_things_is_tried_together() -> None:
    def speed(setting: Setting, _: int) -> float:
        return 1e9 * (1.2 if setting.concurrency == 32 else 1) * (1.2 if setting.chunk == 8 * MIB else 1)

    found = Machine(speed).search()
    assert found.best.setting == DEFAULT._replace(concurrency=32, chunk=8 * MIB)
    assert found.best.setting.changes_from(DEFAULT) == {
        "RUNAI_STREAMER_CONCURRENCY": "32",
        "RUNAI_STREAMER_CHUNK_BYTESIZE": str(8 * MIB),
    }


@pytest.mark.parametrize("budget", [0.1, 3.0, 10.0, 25.0])
def test_the_budget_is_kept(budget: float) -> None:
    machine = Machine(lambda setting, _: 2e9 if setting == DEFAULT else 1e8)
    machine.search(budget)
    assert machine.now <= budget + 0.5 * 2.5  # one run of another setting, which may take so much longer


def test_a_slow_setting_is_broken_off() -> None:
    machine = Machine(lambda setting, _: 1e6 if setting.concurrency == 4 else 1e9)
    found = machine.search()
    (slow,) = (each for each in found.tried if each.setting.concurrency == 4)
    assert list(slow.runs.values()) == [1e6]
    assert machine.now < 60


def test_too_little_time_leaves_the_default() -> None:
    found = Machine(lambda setting, _: 1e9 if setting == DEFAULT else 2e9).search(budget=2.0)
    assert found.best is found.default


def test_a_setting_that_cannot_be_used_is_left_out() -> None:
    machine = Machine(lambda setting, _: 1e9)

    def measure(setting: Setting, maximum: float) -> tuple[float, float]:
        if setting.concurrency == 64:
            raise StreamerError("no more threads")
        return machine.measure(setting, maximum)

    found = search(DEFAULT, OTHERS, measure, 60.0, lambda: machine.now)
    (failed,) = (each for each in found.tried if each.failure is not None)
    assert (failed.setting.concurrency, str(failed.failure), failed.runs) == (64, "no more threads", {})


def test_a_default_that_cannot_be_used_is_an_error() -> None:
    def measure(setting: Setting, maximum: float) -> tuple[float, float]:
        raise StreamerError("gone")

    with pytest.raises(StreamerError, match="gone"):
        search(DEFAULT, OTHERS, measure, 60.0, lambda: 0.0)


def test_default_and_others_take_turns() -> None:
    machine = Machine(lambda setting, _: 1e9)
    machine.search()
    places = [index for index, setting in enumerate(machine.runs) if setting == DEFAULT]
    assert len(places) >= 8
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert max(gaps) <= 2 * len(OTHERS)
