"""Requests that are made again until one succeeds, or until it is plain that none will."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from runai_model_streamer.errors import InterruptedReadError, StreamerError, Where
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_BACKOFF_BASE: Final = 0.1
_BACKOFF_CAP: Final = 5.0
"""Seconds: retry n waits for base * 2**(n-1), but not more than the cap, or down to half of that, so that readers that
failed together do not come back together, and a server that restarts has a known time for it: 8 s with 8 retries."""

_FIRST_RETRIES: Final = 2
_FIRST_SECONDS: Final = 3.0
"""As long as nothing has come from a store, both of these are enough to take it for unreachable: a mistyped endpoint is
likelier than a fault that passes, and who mistyped it should not wait."""

Access = TypeVar("Access")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failed attempt says of the next one."""

    words: str
    """For a log line, without a secret."""
    again: bool = False
    """The same request may succeed when it is made again."""
    renew: bool = False
    """Other credentials may help."""
    answered: bool = False
    """The store has answered, if not with what was asked for."""
    unreachable: bool = False
    """There was no connection at all."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What was tried before it was given up."""

    count: int
    seconds: float


class Store(Protocol[Access]):
    """What attempts need of a store."""

    answered: bool
    """Something has come from it, for whichever of its objects."""

    @property
    def max_retries(self) -> int:
        """Attempts after the first."""
        ...

    def access(self) -> Access:
        """What attempts are made with."""
        ...

    def renew(self, refused: Access) -> None:
        """Read the credentials anew with the next request."""
        ...

    def count_retry(self) -> None:
        """A request is made again."""
        ...

    def judge(self, error: Exception) -> Judgement:
        """Whether to go on after this; it also releases what the error holds of the caller's memory."""
        ...


def retry(
    store: Store[Access],
    flights: Flights,
    path: str,
    span: ByteRange | None,
    attempt: Callable[[Access, Flight], None],
    translated: Callable[[Exception, Attempts, Access | None], Exception],
) -> None:
    """Make attempts until one succeeds, there have been too many, or one shows that more would not help.

    Args:
        store: that is asked.
        flights: whose `stop` ends this.
        path: the object that is read, or the prefix that is listed; for messages.
        span: that is read; None where keys are listed.
        attempt: one request.
        translated: makes the package's error of the failure of the last attempt.

    Raises:
        InterruptedReadError: `flights` was stopped.
        StreamerError: of `attempt`.
        Exception: what `translated` makes.
    """
    began = time.monotonic()
    count = 0
    renewed = False
    access: Access | None = None
    failure: Exception | None = None
    while not flights.stopped():
        count += 1
        try:
            access = store.access()
            with flights.flight() as flight:
                attempt(access, flight)
            store.answered = True
            return
        except StreamerError:
            raise
        except Exception as error:
            judgement = store.judge(error)
            if flights.stopped():
                break
            store.answered = store.answered or judgement.answered
            if judgement.renew and access is not None and not renewed:
                renewed = True
                store.renew(access)
                store.count_retry()
                continue
            attempts = Attempts(count, time.monotonic() - began)
            if _is_hopeless(store, judgement, attempts):
                failure = translated(error, attempts, access)
                break
        longest = min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (count - 1))
        pause = random.uniform(longest / 2, longest)
        _log.info(
            "%s: %s: attempt %d failed: %s; the next in %.1f s",
            path, span or "listing", count, judgement.words, pause,
        )  # fmt: skip
        if not flights.wait(pause):
            store.count_retry()
    if failure is not None:
        # Not where the foreign error is still handled: Python would make it the context.
        try:
            raise failure
        finally:
            # The traceback holds this frame, and the frame would hold the exception.
            del failure
    raise InterruptedReadError(f"{span or 'listing'} not read: the streamer is closing", where=Where(path, span))


def _is_hopeless(store: Store[Access], judgement: Judgement, attempts: Attempts) -> bool:
    if not judgement.again or attempts.count > store.max_retries:
        return True
    first = judgement.unreachable and not store.answered
    return first and attempts.count > _FIRST_RETRIES and attempts.seconds >= _FIRST_SECONDS
