"""The sums that a load keeps of its threads."""

import threading

import pytest

from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile, Step, plan_groups
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reader import STAGES, ReaderTally
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.timer import SYSTEM
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from tests.checkpoints import infos
from tests.pipeline.tally.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def groups_of(*sizes: int) -> list[Group]:
    """A group for each tensor."""
    from runai_model_streamer.origins import SourceKind

    planned = [PlannedFile(sum(sizes), SourceKind.FILE, 1, 4096, infos(sizes, 0))]
    return list(plan_groups(planned, limit=max(sizes)))


def test_the_waits_clock_stands_still_between_waits() -> None:
    clock = WaitClock()
    assert clock.at(5.0) == 0.0
    clock.start(10.0)
    assert clock.at(10.5) == 0.5
    clock.stop(11.0)
    assert clock.at(20.0) == 1.0
    clock.start(20.0)
    assert clock.at(19.0) == 1.0  # a reader that looked at its watch before the wait began
    clock.stop(20.5)
    assert clock.at(99.0) == 1.5


def test_a_wait_has_the_time_since_the_mark(clock: Clock) -> None:
    reader = ReaderTally(WaitClock(), WaitClock(), clock)
    reader.begin(None)
    clock.now += 3.0
    reader.mark()
    clock.now += 0.5
    reader.rested()
    assert reader.seconds["rest"] == sum(reader.seconds.values()) == 0.5
    assert sum(reader.in_wait.values()) == 0.0


def test_a_reader_waits_for_memory_while_any_does_and_else_for_its_turn(clock: Clock) -> None:
    waits, leasing = WaitClock(), WaitClock()
    reader = ReaderTally(waits, leasing, clock)
    reader.begin(None)
    waits.start(clock.now)
    clock.now += 1.0
    leasing.start(clock.now)
    clock.now += 2.0
    leasing.stop(clock.now)
    clock.now += 1.0
    reader.took()
    assert (reader.seconds["memory"], reader.in_wait["memory"]) == (2.0, 2.0)
    clock.now += 5.0
    reader.took()
    assert sum(reader.seconds.values()) == 2.0


def test_a_read_is_divided_into_the_sources_part_and_what_lay_beside_it(clock: Clock) -> None:
    waits = WaitClock()
    reader = ReaderTally(waits, WaitClock(), clock)
    reader.begin(None)
    waits.start(clock.now + 2.0)
    clock.now += 4.0
    reader.read(0, Step(0, 0, 1000, 0), Reading(Origin.DISK, 3.0), "cast")
    assert (reader.seconds["disk"], reader.seconds["cast"]) == (3.0, 1.0)
    assert (reader.in_wait["disk"], reader.in_wait["cast"]) == (1.5, 0.5)
    assert (reader.bytes["disk"], reader.reads) == (1000, 1)


def test_what_a_reader_did_in_waits_is_a_part_of_what_it_did(clock: Clock) -> None:
    waits, leasing = WaitClock(), WaitClock()
    reader = ReaderTally(waits, leasing, clock)
    reader.begin(None)
    for turn in range(20):
        (waits.start, waits.stop)[turn % 2](clock.now)
        if turn % 3 == 0:
            (leasing.start, leasing.stop)[turn % 2](clock.now)
        clock.now += 0.5
        reader.took()
        clock.now += 1.0
        reader.read(turn, Step(0, 0, 10, 0), Reading(Origin.DISK, 0.25 * (turn % 5)), "cast")
    waited = waits.at(clock.now)
    for stage in STAGES:
        assert 0.0 <= reader.in_wait[stage] <= reader.seconds[stage]
    assert 0.0 < sum(reader.in_wait.values()) <= waited


def test_a_source_that_says_it_took_longer_than_the_read_is_given_the_reads_time(clock: Clock) -> None:
    reader = ReaderTally(WaitClock(), WaitClock(), clock)
    reader.begin(None)
    clock.now += 1.0
    reader.read(0, Step(0, 0, 1, 0), Reading(Origin.OBJECT, 5.0), "copy")
    assert (reader.seconds["object_storage"], reader.seconds["copy"]) == (1.0, 0.0)


def test_every_origin_is_a_stage_whose_bytes_are_counted() -> None:
    assert set(STAGES) >= {origin.field for origin in Origin}
    assert set(ReaderTally(WaitClock(), WaitClock()).bytes) == {origin.field for origin in Origin}


def test_the_callers_seconds_go_where_they_were_spent(clock: Clock) -> None:
    groups = groups_of(100, 200)
    load = Tally(timer=clock)
    clock.now += 1.0
    load.plan(groups)
    clock.now += 0.25
    load.start()
    clock.now += 2.0
    load.ask()
    load.wait()
    clock.now += 4.0
    assert load.times.wait == 4.25
    load.landed()
    clock.now += 0.5
    load.made(groups[0], 1)
    assert load.first == 7.75
    clock.now += 8.0
    load.seconds.place += 3.0
    assert (load.times.caller, load.times.place) == (7.0, 3.0)
    load.give(groups[0])
    assert (load.delivered.pieces, load.delivered.payload) == (1, 100)
    assert (load.planned.pieces, load.planned.payload) == (2, 300)
    load.end("abandoned")
    clock.now += 50.0  # nobody's
    load.closing()
    clock.now += 0.125
    load.closed()
    found = load.times
    assert (found.plan, found.wait, found.make, found.place) == (1.0, 4.25, 0.5, 3.0)
    assert (found.caller, found.close) == (7.0, 0.125)
    assert found.all == 15.875


def test_making_the_rest_of_a_group_is_taken_to_be_like_making_its_first_tensors(clock: Clock) -> None:
    planned = groups_of(100)
    many = Group(0, (planned[0].parts[0]._replace(tensors=infos([1] * 10)),), 1, 10, 10)
    load = Tally(timer=clock)
    load.plan([many])
    load.start()
    load.ask()
    load.landed()
    clock.now += 1.0
    load.made(many, 2)  # of 10
    clock.now += 7.0
    load.give(many)
    assert (load.seconds.make, load.seconds.caller) == (5.0, 3.0)


def test_the_first_end_holds_unless_it_failed(clock: Clock) -> None:
    load = Tally(timer=clock)
    load.end("complete")
    load.end("abandoned")
    assert (load.outcome, load.error) == ("complete", None)
    load.fail(ValueError("the device"))
    assert (load.outcome, load.error) == ("failed", "ValueError: the device")


def test_the_kernel_is_asked_for_a_threads_time() -> None:
    assert SYSTEM.thread_times(0) is None
    times = SYSTEM.thread_times(threading.get_native_id())
    if times is None:
        pytest.skip("this kernel has no schedstat")
    assert times.cpu > 0
    assert times.delay is not None
