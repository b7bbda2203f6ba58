"""How large direct requests become: a disk whose latency and rate are given, and a clock that is."""

import pytest

from runai_model_streamer.io.files.requests import FIRST_WINDOW, MAX_REQUEST, MIN_REQUEST, WINDOW, RequestSize, way_of

MIB = 1 << 20
GB = 1e9


class Disk:
    """Readers of one file, in step with each other.

    Args:
        rate: bytes a second of all readers together.
        latency: seconds of each request, whatever its size.
        readers: the requests in flight.
        gil: seconds that each reader waits for the GIL after its request.
    """

    def __init__(self, rate: float, latency: float = 80e-6, readers: int = 16, gil: float = 0.0) -> None:
        self.rate, self.latency, self.readers, self.gil = rate, latency, readers, gil
        self.requests, self.now = RequestSize(), 7.0

    def read(self, length: int) -> None:
        """Each reader reads `length` bytes."""
        landed = 0
        while landed < length:
            size, began = min(self.requests.size, length - landed), self.now
            self.now += self.latency + size * self.readers / self.rate + self.gil
            for _ in range(self.readers):
                self.requests.landed(size, began, self.now)
            landed += size

    def settled(self) -> int:
        for _ in range(8 * WINDOW):
            self.read(MAX_REQUEST)
        return self.requests.size


def test_the_first_requests_are_small() -> None:
    assert RequestSize().size == MIN_REQUEST


def test_after_a_few_of_a_fast_disk_they_are_large() -> None:
    disk = Disk(100 * GB, readers=1)
    for _ in range(FIRST_WINDOW):
        disk.read(MIN_REQUEST)
    assert disk.requests.size > MIN_REQUEST


@pytest.mark.parametrize(("largest", "told"), [(1, 4), (4 * MIB, 4), (8 * MIB, 8), (8 * MIB + 1, 16), (64 * MIB, 64)])
def test_the_largest_request_is_told(largest: int, told: int) -> None:
    assert way_of(largest) == f"past the page cache, up to {told}MiB at once"


@pytest.mark.parametrize("rate", [0.2, 1.0, 2.5, 5.0])
def test_a_disk_as_most_machines_have_is_asked_for_a_piece_at_a_time(rate: float) -> None:
    assert Disk(rate * GB).settled() == MIN_REQUEST


@pytest.mark.parametrize(("rate", "least"), [(25, 8), (50, 16), (1000, 64)])
def test_a_fast_disk_is_asked_for_much_at_once(rate: float, least: int) -> None:
    assert Disk(rate * GB).settled() >= least * MIB


def test_one_reader_alone_asks_for_what_lasts_longer_than_the_latency() -> None:
    assert Disk(10 * GB, readers=1).settled() == 8 * MIB


def test_a_short_tail_does_not_make_the_next_requests_small() -> None:
    disk = Disk(100 * GB)
    settled = disk.settled()
    for _ in range(WINDOW):
        disk.read(settled)
        disk.read(4096)
        assert disk.requests.size >= settled / 2


def test_waits_for_the_gil_do_not_make_requests_small() -> None:
    assert Disk(100 * GB, gil=2e-3).settled() > 16 * MIB


def test_a_disk_that_becomes_slow_is_asked_for_less() -> None:
    disk = Disk(100 * GB)
    assert disk.settled() > 16 * MIB
    disk.rate = 1 * GB
    assert disk.settled() == MIN_REQUEST


def test_a_clock_that_does_not_move_decides_nothing() -> None:
    requests = RequestSize()
    for _ in range(2 * WINDOW):
        requests.landed(MIB, 5.0, 5.0)
    assert requests.size == MIN_REQUEST


def test_requests_may_be_no_smaller_than_others_want() -> None:
    requests = RequestSize()
    requests.at_least(MAX_REQUEST)
    assert requests.size == MAX_REQUEST
    for second in range(WINDOW + 1):
        requests.landed(MAX_REQUEST, second, second + 0.9)
    assert requests.size == MAX_REQUEST
