"""Retries a request until it succeeds, or until more retries cannot help."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from runai_model_streamer.errors import InterruptedReadError, StreamerError, Where
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.request_rate import RequestRates
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_FIRST_RETRIES: Final = 2
_FIRST_SECONDS: Final = 3.0
"""A store that has never answered counts as unreachable after this many retries, once this many seconds have passed. A
mistyped endpoint is likelier than a passing fault, and its user should not wait."""

Access = TypeVar("Access")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a retry.

    Retry n waits between half and all of min(cap, base * 2**(n-1)). The random part spreads readers that failed
    together. The lower half gives a server a known time to restart: 8 s with 8 retries.
    """

    base: float = 0.1
    """Seconds."""
    cap: float = 5.0
    """Seconds."""
    clock: Callable[[], float] = time.monotonic
    """Returns seconds that never run backwards."""

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 1."""
        longest = min(self.cap, self.base * 2 ** (attempt - 1))
        return random.uniform(longest / 2, longest)


BACKOFF: Final = Backoff()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failed attempt means for the next one."""

    words: str
    """For a log line; without secrets."""
    again: bool = False
    """A retry of the same request may succeed."""
    renew: bool = False
    """New credentials may help."""
    answered: bool = False
    """The store answered, though not with what was asked for."""
    refused: bool = False
    """There may be too many requests at once: the store says so, or does not answer in time."""
    unreachable: bool = False
    """There was no connection at all."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """How much was tried before the request was given up."""

    count: int
    seconds: float


class Store(Protocol[Access]):
    """What `retry` needs of a store."""

    answered: bool
    """The store has answered a request, for any of its objects."""
    rates: RequestRates
    """Pace requests, and count those that were refused."""

    @property
    def max_retries(self) -> int:
        """Attempts after the first."""
        ...

    def access(self) -> Access:
        """Return the client and credentials for an attempt."""
        ...

    def renew(self, refused: Access) -> None:
        """Read the credentials again before the next request."""
        ...

    def count_retry(self) -> None:
        """Count one retry."""
        ...

    def judge(self, error: Exception) -> Judgement:
        """Say whether to go on after this error, and release its references to the caller's memory."""
        ...


def retry(
    store: Store[Access],
    flights: Flights,
    path: str,
    span: ByteRange | None,
    attempt: Callable[[Access, Flight], None],
    translated: Callable[[Exception, Attempts, Access | None], Exception],
    backoff: Backoff = BACKOFF,
) -> None:
    """Call `attempt` until it succeeds, fails for good, or has used up the retries.

    Args:
        store: the store to ask.
        flights: its `stop` ends the retries.
        path: the object that is read, or the prefix that is listed; for messages.
        span: the range that is read; None for a listing.
        attempt: makes one request.
        translated: turns the last failure into an error of this package.
        backoff: how long to wait between attempts.

    Raises:
        InterruptedReadError: `flights` was stopped.
        StreamerError: raised by `attempt`.
        Exception: made by `translated`.
    """
    rate = store.rates.of(path)
    began = backoff.clock()
    count = 0
    renewed = False
    access: Access | None = None
    failure: Exception | None = None
    while not flights.stopped():
        if rate.limit is not None:
            turn = rate.reserve()
            while (pause := rate.wait(turn)) and not flights.wait(pause):
                pass
            if flights.stopped():
                break
        count += 1
        flight: Flight | None = None
        try:
            access = store.access()
            with flights.flight() as flight:
                attempt(access, flight)
            store.answered = True
            rate.answered()
            return
        except StreamerError:
            raise
        except Exception as error:
            judgement = store.judge(error)
            if flights.stopped():
                break
            store.answered = store.answered or judgement.answered
            if judgement.refused and (flight is None or not flight.elsewhere):
                rate.refused(answered=judgement.answered)
            if judgement.renew and access is not None and not renewed:
                renewed = True
                store.renew(access)
                store.count_retry()
                continue
            attempts = Attempts(count, backoff.clock() - began)
            if _is_hopeless(store, judgement, attempts):
                failure = translated(error, attempts, access)
                break
        pause = backoff.pause(count)
        _log.info(
            "%s: %s: attempt %d failed: %s; retrying in %.1f s",
            path, span or "listing", count, judgement.words, pause,
        )  # fmt: skip
        if not flights.wait(pause):
            store.count_retry()
    if failure is not None:
        # Not inside the except block: Python would make the foreign error its context.
        try:
            raise failure
        finally:
            # The traceback holds this frame. If the frame held the exception, that would be a reference cycle.
            del failure
    raise InterruptedReadError(f"{span or 'listing'} not read: the streamer is closing", where=Where(path, span))


def _is_hopeless(store: Store[Access], judgement: Judgement, attempts: Attempts) -> bool:
    if not judgement.again or attempts.count > store.max_retries:
        return True
    first = judgement.unreachable and not store.answered
    return first and attempts.count > _FIRST_RETRIES and attempts.seconds >= _FIRST_SECONDS
