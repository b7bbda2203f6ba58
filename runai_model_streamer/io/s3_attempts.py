"""A request to an object store, made again for as long as that may help."""

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from runai_model_streamer.errors import InterruptedReadError, StreamerError
from runai_model_streamer.io import s3_errors
from runai_model_streamer.io.ranges import ByteRange
from runai_model_streamer.io.s3_connections import Flights
from runai_model_streamer.io.s3_credentials import Access
from runai_model_streamer.io.s3_messages import Circumstances

if TYPE_CHECKING:
    from runai_model_streamer.io.s3 import S3Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_BACKOFF_BASE: Final = 0.1
_BACKOFF_CAP: Final = 5.0
"""Seconds: before retry n, any time up to base * 2**(n-1), but not above the cap, so that readers that failed
together do not come back together."""

_OPENING_RETRIES: Final = 2
"""Where there is no connection to a store from which nothing has come yet: a wrong endpoint is likelier than a fault
that passes, and whoever mistyped it should not wait."""


class Attempts:
    """The requests that one caller makes of a store for one object, or one prefix of keys.

    Args:
        store: where to ask; its settings say how often.
        flights: of these requests; stopping them ends the attempts.
        path: the URL as the user wrote it, for messages.
        bucket: its bucket.
    """

    def __init__(self, store: "S3Store", flights: Flights, path: str, bucket: str) -> None:
        self._store = store
        self._flights = flights
        self._path = path
        self._bucket = bucket
        self._reached = False

    def make(self, attempt: Callable[[Access], _T], span: ByteRange | None = None) -> _T:
        """Call `attempt` until it succeeds, has failed too often, or shows that more attempts are of no use.

        Args:
            attempt: makes one request, or a few, with the client it is given, and returns what came of them.
            span: the bytes asked for, for messages; None for a listing.

        Raises:
            InterruptedReadError: the flights were stopped.
            StreamerError: what `s3_messages` makes of the last failure, or one that `attempt` raised.
        """
        config = self._store.config
        began = time.monotonic()
        attempts = 0
        renewed = False
        access: Access | None = None
        while not self._flights.stopped():
            attempts += 1
            try:
                access = self._store.access()
                with self._flights.flight():
                    result = attempt(access)
            except StreamerError:
                raise
            except Exception as error:
                s3_errors.release_frames(error)
                if self._flights.stopped():
                    break
                if access is not None and not renewed and s3_errors.is_expired(error):
                    renewed = True
                    self._store.renew(access)
                    continue
                retries = config.max_retries
                if not self._reached and s3_errors.is_unreachable(error):
                    retries = min(retries, _OPENING_RETRIES)
                if attempts > retries or not s3_errors.is_passing(error):
                    seconds = time.monotonic() - began
                    unsigned, secrets = (access.unsigned, access.secrets) if access else (False, ())
                    facts = (self._path, self._bucket, span, attempts, seconds, config.timeout, unsigned, secrets)
                    s3_errors.raise_translated(error, Circumstances(*facts))
                pause = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempts - 1)))
                _log.info(
                    "%s: %s: attempt %d failed: %s; the next in %.1f s",
                    self._path, span or "listing", attempts, s3_errors.in_short(error), pause,
                )  # fmt: skip
            else:
                self._reached = True
                return result
            self._flights.wait(pause)
        raise InterruptedReadError(f"{self._path}: {span or 'listing'} not read: the streamer is closing")
