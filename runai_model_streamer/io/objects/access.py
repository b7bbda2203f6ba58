"""Keeps the access that requests to a store are made with."""

import threading
from collections.abc import Callable
from typing import Generic

from runai_model_streamer.errors import InterruptedReadError
from runai_model_streamer.io.objects.requests import A
from runai_model_streamer.io.setup_time import SetupClock


class CurrentAccess(Generic[A]):
    """The access in use: made at the first `get`, and made again after the store refused it. Thread safe.

    Args:
        make: makes an access. It may wait for a credential provider.
        setup: times `make`.
    """

    def __init__(self, make: Callable[[], A], setup: SetupClock) -> None:
        self._make = make
        self._setup = setup
        self._making = threading.Lock()
        self._lock = threading.Lock()
        """Held only briefly, so that `close` never waits for a credential provider."""
        self._access: A | None = None
        self._made: list[A] = []
        self._closed = False

    def get(self) -> A:
        """Return the access; make one if there is none.

        Raises:
            InterruptedReadError: `stop` or `close` was called, before or meanwhile.
            Exception: raised by `make`.
        """
        access = self._access
        if access is not None and not self._closed:
            return access
        with self._making:
            access = self._ready()
            if access is not None:
                return access
            with self._setup.during("imports"):
                access = self._make()
            with self._lock:
                if not self._closed:
                    self._access = access
                    self._made.append(access)
                    return access
        access.close()
        return self.get()  # raises

    def _ready(self) -> A | None:
        with self._lock:
            if self._closed:
                raise InterruptedReadError("no request made: the streamer is closing")
            return self._access

    def renew(self, refused: A) -> None:
        """Drop a refused access, so that the next `get` reads the credentials again. Once for all threads."""
        with self._lock:
            if self._access is refused:
                self._access = None

    @property
    def transport(self) -> str | None:
        """Name of the transport; None before the first `get`."""
        access = self._access
        return None if access is None else access.transport.name

    def stop(self) -> None:
        """Make `get` raise from now on. Never blocks."""
        with self._lock:
            self._closed = True

    def close(self) -> None:
        """Stop, and close all connections. Idempotent."""
        self.stop()
        with self._lock:
            made, self._made, self._access = self._made, [], None
        for access in made:
            access.close()
