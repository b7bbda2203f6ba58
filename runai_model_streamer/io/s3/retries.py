"""Requests that are made again until they succeed, or until it is plain that they will not."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import InterruptedReadError, StreamerError, Where
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.errors.meaning import Circumstances
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_BACKOFF_BASE: Final = 0.1
_BACKOFF_CAP: Final = 5.0
"""Seconds: before retry n, any time up to base * 2**(n-1), but not above the cap, so that readers that failed
together do not come back together."""

_OPENING_RETRIES: Final = 2
"""Where there is no connection to a store from which nothing has come yet: a wrong endpoint is likelier than a fault
that passes, and whoever mistyped it should not wait."""


class Accessible(Protocol):
    """What attempts need of a store; see `s3.S3Store`."""

    @property
    def config(self) -> S3Config:
        """The settings."""
        ...

    def access(self) -> Access:
        """The client in use."""
        ...

    def renew(self, refused: Access) -> None:
        """Read the credentials anew with the next request."""
        ...

    def count_retry(self) -> None:
        """A request is made again."""
        ...


def persist(
    store: Accessible,
    flights: Flights,
    path: str,
    bucket: str,
    span: ByteRange | None,
    attempt: Callable[[Access, Flight], None],
    *,
    opening: bool,
) -> None:
    """Make attempts until one succeeds, there have been too many, or one shows that more are of no use.

    `path`, `bucket` and `span` (None: keys are listed) are for messages; `opening` says that nothing has come from
    this object yet.

    Raises:
        InterruptedReadError: `flights` was stopped.
        StreamerError: the last attempt's failure, translated.
    """
    config = store.config
    began = time.monotonic()
    attempts = 0
    renewed = False
    access: Access | None = None
    failure: Exception | None = None
    while not flights.stopped():
        attempts += 1
        try:
            access = store.access()
            with flights.flight() as flight:
                attempt(access, flight)
            return
        except StreamerError:
            raise
        except Exception as error:
            translation.release_frames(error)
            if flights.stopped():
                break
            if access is not None and not renewed and translation.is_expired(error):
                renewed = True
                store.renew(access)
                store.count_retry()
                continue
            retries = config.max_retries
            if opening and translation.is_unreachable(error):
                retries = min(retries, _OPENING_RETRIES)
            if attempts > retries or not translation.is_passing(error):
                at = Circumstances(path, bucket, span, attempts, time.monotonic() - began, config.timeout, opening)
                if access is not None:
                    at = replace(at, unsigned=access.unsigned, provenance=access.provenance, secrets=access.secrets)
                failure = translation.translated(error, at)
                break
            pause = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempts - 1)))
            _log.info(
                "%s: %s: attempt %d failed: %s; the next in %.1f s",
                path, span or "listing", attempts, translation.in_short(error), pause,
            )  # fmt: skip
        if not flights.wait(pause):
            store.count_retry()
    if failure is not None:
        try:
            raise failure
        finally:
            # The traceback holds this frame, and the frame would hold the exception.
            del failure
    raise InterruptedReadError(f"{span or 'listing'} not read: the streamer is closing", where=Where(path, span))
