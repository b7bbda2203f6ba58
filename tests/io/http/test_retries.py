"""How often and for how long a request is made again, whatever it is of."""

from dataclasses import replace

import pytest

from runai_model_streamer.errors import InterruptedReadError
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.request_rate import RequestRates
from runai_model_streamer.io.http.retries import BACKOFF, Attempts, Backoff, Judgement, retry
from runai_model_streamer.ranges import ByteRange


class Clock:
    """Stands still but for pauses, the longest that there may be, which take no time."""

    def __init__(self) -> None:
        self.now = 0.0
        clock = self

        class Longest(Backoff):
            def pause(self, attempt: int) -> float:
                clock.now += min(self.cap, self.base * 2 ** (attempt - 1))
                return 0.0

        self.backoff = Longest(clock=lambda: self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_pause_is_between_half_of_the_longest_and_all_of_it() -> None:
    for attempt, longest in enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0), 1):
        pauses = [BACKOFF.pause(attempt) for _ in range(100)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


class Failing:
    """A store that fails as it is told to."""

    max_retries = 8

    def __init__(self, *judgements: Judgement, answered: bool = False, lasts: float = 0.0) -> None:
        self.answered = answered
        self.lasts = lasts
        self.attempts = 0
        self.renewed: list[int] = []
        self.retries = 0
        self.rates = RequestRates(lambda: 0.0)
        self._judgements = judgements

    def access(self) -> int:
        return len(self.renewed)

    def renew(self, refused: int) -> None:
        self.renewed.append(refused)

    def count_retry(self) -> None:
        self.retries += 1

    def judge(self, error: Exception) -> Judgement:
        return self._judgements[min(self.attempts, len(self._judgements)) - 1]


class GaveUpError(Exception):
    pass


def run(store: Failing, backoff: Backoff, *, succeeds: int | None = None, flights: Flights | None = None) -> None:
    """Try until the attempt of number `succeeds` does."""

    def attempt(_: int, __: Flight) -> None:
        store.attempts += 1
        if store.attempts != succeeds:
            raise ConnectionError

    def translated(_: Exception, attempts: Attempts, __: int | None) -> Exception:
        assert attempts.count == store.attempts
        return GaveUpError()

    retry(store, flights or Flights(), "s3://bucket/key", ByteRange(0, 10), attempt, translated, backoff)


UNREACHABLE = Judgement("no connection", again=True, unreachable=True)
BUSY = Judgement("HTTP 503", again=True, answered=True)


def test_a_store_that_never_answered_is_given_up_after_three_seconds(clock: Clock) -> None:
    store = Failing(UNREACHABLE)
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert 3.0 <= clock.now < 7.0


def test_a_store_that_never_answered_has_three_tries_however_long_they_take(
    clock: Clock,
) -> None:
    store = Failing(UNREACHABLE)
    with pytest.raises(GaveUpError):
        run(store, replace(clock.backoff, clock=lambda: 100.0 * store.attempts))
    assert store.attempts == 3


def test_a_store_that_has_answered_any_request_has_all_retries(clock: Clock) -> None:
    store = Failing(UNREACHABLE, answered=True)
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert store.attempts == 9
    # Half of the longest pauses are the shortest: time enough for a restart.
    assert clock.now / 2 > 8.0


def test_a_refusal_is_an_answer(clock: Clock) -> None:
    store = Failing(BUSY, UNREACHABLE)
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert store.answered
    assert store.attempts == 9


def test_refusals_and_answers_are_counted_for_the_rate_of_requests(clock: Clock) -> None:
    store = Failing(Judgement("HTTP 503", again=True, answered=True, refused=True))
    run(store, clock.backoff, succeeds=3)
    assert store.rates.of("s3://bucket/other").refusals == store.rates.refusals == 2
    assert store.rates.of("s3://another/key").refusals == 0


def test_a_request_waits_for_its_turn(clock: Clock) -> None:
    store = Failing(BUSY)
    store.rates.of("s3://bucket").limit = 1e9
    flights = Flights()
    flights.stop()
    with pytest.raises(InterruptedReadError):
        run(store, clock.backoff, flights=flights)
    assert store.attempts == 0


def test_a_success_is_an_answer(clock: Clock) -> None:
    store = Failing(UNREACHABLE)
    run(store, clock.backoff, succeeds=3)
    assert store.answered
    assert store.retries == 2


def test_no_retries_means_none(clock: Clock) -> None:
    store = Failing(UNREACHABLE, answered=True)
    store.max_retries = 0
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert store.attempts == 1


def test_what_another_try_would_not_mend_is_not_tried_again(clock: Clock) -> None:
    store = Failing(Judgement("HTTP 403", answered=True))
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert store.attempts == 1


def test_credentials_are_renewed_once_and_without_a_pause(clock: Clock) -> None:
    expired = Judgement("HTTP 400 ExpiredToken", renew=True, answered=True)
    store = Failing(expired)
    with pytest.raises(GaveUpError):
        run(store, clock.backoff)
    assert (store.attempts, store.renewed, clock.now) == (2, [0], 0.0)


def test_flights_that_were_stopped_make_no_attempt(clock: Clock) -> None:
    store, flights = Failing(BUSY), Flights()
    flights.stop()
    with pytest.raises(InterruptedReadError, match="s3://bucket/key: bytes 0-10 not read: the streamer is closing"):
        run(store, clock.backoff, flights=flights)
    assert store.attempts == 0


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_refusal_by_one_address_of_several_does_not_count_for_the_host(clock: Clock, *, elsewhere: bool) -> None:
    store = Failing(Judgement("HTTP 503", again=True, answered=True, refused=True))

    def attempt(_: int, flight: Flight) -> None:
        store.attempts += 1
        flight.elsewhere = elsewhere
        if store.attempts < 3:
            raise ConnectionError

    retry(store, Flights(), "s3://bucket/key", None, attempt, lambda *_: GaveUpError(), clock.backoff)
    assert store.rates.refusals == (0 if elsewhere else 2)
