"""The cap: what is let through when, by a clock that the test moves; and reads that stand in line."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from runai_model_streamer.errors import InterruptedReadError, TruncatedError
from runai_model_streamer.io.bandwidth import BURST, Bandwidth, PacedSource
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.ranges import PAGE
from tests.io.contract import DATA, SourceContract, read_at
from tests.sources import MemorySource

MIB = 1 << 20
RATE = 100 * MIB
PATH = "/models/model.safetensors"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestLine:
    def test_the_first_bytes_are_let_through_at_once(self, clock: Clock) -> None:
        assert Bandwidth(RATE, clock).reserve(MIB) == 0

    def test_bytes_wait_for_those_before_them(self, clock: Clock) -> None:
        line = Bandwidth(RATE, clock)
        clock.now += 1
        waits = [line.reserve(10 * MIB) for _ in range(4)]
        assert waits == pytest.approx([0, 0.1 - BURST, 0.2 - BURST, 0.3 - BURST])

    def test_time_that_passes_shortens_the_wait(self, clock: Clock) -> None:
        line = Bandwidth(RATE, clock)
        line.reserve(50 * MIB)
        clock.now += 0.2
        assert line.reserve(MIB) == pytest.approx(0.3)

    def test_a_pause_saves_up_no_more_than_the_burst(self, clock: Clock) -> None:
        line = Bandwidth(RATE, clock)
        clock.now += 3600
        through = 0
        while not line.reserve(MIB):
            through += MIB
        assert through <= RATE * BURST + MIB

    @pytest.mark.parametrize("count", [1000, 12_345, MIB, 5 * MIB])
    def test_over_any_time_no_more_than_the_rate_the_burst_and_a_piece(self, clock: Clock, count: int) -> None:
        line = Bandwidth(RATE, clock)
        began, through = clock.now, 0
        while clock.now < began + 3:
            clock.now += line.reserve(count)
            through += count
            assert through <= RATE * (clock.now - began + BURST) + count
        assert through >= RATE * 2.9, "the rate is used"

    def test_several_readers_share_one_rate(self, clock: Clock) -> None:
        line = Bandwidth(RATE, clock)
        ready = [0.0] * 8
        through, end = 0, 5.0
        while min(ready) < end:
            reader = ready.index(min(ready))
            clock.now = 1000 + ready[reader]
            # Each is busy with what it read for a while, and stands in line again.
            ready[reader] += line.reserve(4 * MIB) + 0.013 * reader
            through += 4 * MIB
        assert RATE * end * 0.95 <= through <= RATE * (end + BURST) + 9 * 4 * MIB

    @pytest.mark.parametrize("rate", [1, 100_000, MIB, 100 * MIB, 12_500_000_000])
    def test_a_piece_is_whole_pages_and_what_the_burst_brings_unless_that_is_tiny(self, rate: int) -> None:
        piece = Bandwidth(rate).piece
        assert piece % PAGE == 0
        assert piece == 256 << 10 or rate * BURST - PAGE <= piece <= rate * BURST

    def test_after_a_stop_nothing_is_let_through(self) -> None:
        line = Bandwidth(RATE)
        line.stop()
        assert not line.take(1, lambda: False)

    def test_a_stop_wakes_who_waits(self) -> None:
        line = Bandwidth(1)
        line.reserve(10**6)
        answers: list[bool] = []
        waiter = threading.Thread(target=lambda: answers.append(line.take(1, lambda: False)))
        waiter.start()
        line.stop()
        waiter.join(30)
        assert answers == [False]


def paced(rate: int) -> tuple[PacedSource, MemorySource, Bandwidth]:
    inner = MemorySource(PATH, DATA)
    line = Bandwidth(rate)
    return PacedSource(inner, line), inner, line


class CountingLine(Bandwidth):
    """A line that lets everything through, and counts it."""

    def __init__(self) -> None:
        super().__init__(10**12)
        self.paid: list[int] = []

    def take(self, count: int, interrupted: Callable[[], bool]) -> bool:
        self.paid.append(count)
        return not interrupted()


class TestPacedSource(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return PATH

    @pytest.fixture
    def source(self, path: str) -> Iterator[Source]:
        with closing(PacedSource(MemorySource(path, DATA, kind=self.kind), Bandwidth(1 << 40), 1000)) as source:
            yield source


class TestReads:
    def test_a_read_is_taken_in_pieces(self) -> None:
        source, inner, line = paced(10**12)
        line.piece = 300_000
        assert read_at(source, 5, 690_000) == DATA[5:690_005]
        assert inner.reads == [(5, 300_000), (300_005, 300_000), (600_005, 90_000)]

    def test_every_byte_is_paid_for_once(self) -> None:
        line = CountingLine()
        source, paid = PacedSource(MemorySource(PATH, DATA), line, 1000), line.paid
        read_at(source, 0, 8)
        read_at(source, 8, 992)
        read_at(source, 500, 1000)
        read_at(source, 1500, len(DATA) - 1500)
        assert paid[:2] == [1000, 500], "what the opening brought is paid for by the first read"
        assert sum(paid) == len(DATA)

    def test_what_is_short_of_the_opening_is_all_that_is_paid(self) -> None:
        line = CountingLine()
        source, paid = PacedSource(MemorySource(PATH, DATA), line, 1 << 30), line.paid
        read_at(source, 0, len(DATA))
        assert paid == [len(DATA)]

    def test_a_read_that_waits_in_line_ends_when_it_is_interrupted(self) -> None:
        source, inner, line = paced(1)
        line.reserve(10**6)
        errors: list[Exception] = []

        def wait() -> None:
            try:
                read_at(source, 0, 10)
            except InterruptedReadError as error:
                errors.append(error)

        reader = threading.Thread(target=wait)
        reader.start()
        source.interrupt()
        reader.join(30)
        assert "bytes 0-10 not read" in str(errors[0])
        assert inner.reads == []

    def test_an_interrupted_source_leaves_the_line_to_others(self) -> None:
        source, _, line = paced(1 << 40)
        other = PacedSource(MemorySource(PATH, DATA), line)
        source.interrupt()
        with pytest.raises(InterruptedReadError):
            read_at(source, 0, 10)
        assert read_at(other, 0, 10) == DATA[:10]

    def test_errors_of_the_inner_source_come_through(self) -> None:
        source, _, _ = paced(1 << 40)
        with pytest.raises(TruncatedError, match=PATH):
            read_at(source, 0, len(DATA) + 1)

    def test_closing_closes_the_inner_source(self) -> None:
        source, inner, _ = paced(1 << 40)
        source.close()
        assert inner.closed == 1
