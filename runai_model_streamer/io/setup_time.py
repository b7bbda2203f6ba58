"""Times what a load does before it can read: imports, compiling, credentials, connecting.

A process does most of it once. A report names these stages, so that no verdict takes them for work on the data.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, TypeAlias

_SHOWN: Final = 0.005
"""Seconds from which a stage is named: what two decimals show."""

SetupStage: TypeAlias = Literal["imports", "compiling", "credentials", "connecting"]
"""A field of `SetupSeconds`."""


@dataclass(frozen=True, slots=True)
class SetupSeconds:
    """Seconds of each stage of a load's set-up, before reads begin. Stages at the same time count once."""

    imports: float = 0.0
    """Importing libraries and making their clients: for stores, CUDA's bindings, numba for casts."""
    compiling: float = 0.0
    """Compiling the kernels that cast, or reading them from numba's cache. Only with `dtype=`."""
    credentials: float = 0.0
    """Finding credentials, and asking a provider for them with the first request."""
    connecting: float = 0.0
    """Making the first connection to object storage: name resolution, TCP, proxy and TLS."""

    @property
    def all(self) -> float:
        """The sum of all stages."""
        return sum((getattr(self, each.name) for each in fields(self)), 0.0)

    def __str__(self) -> str:
        """Return the stages that took time, with their seconds."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items() if seconds >= _SHOWN)


class SetupClock:
    """Times the set-up of one load. Thread safe.

    Args:
        clock: seconds from an arbitrary moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = False
        self.seconds = SetupSeconds()
        """Seconds of each stage so far."""
        self.connect_seconds = 0.0
        """Thread-seconds in which connections were made, of all requests."""

    @contextmanager
    def during(self, stage: SetupStage) -> Iterator[None]:
        """Count the block as this stage, except for the stages within it."""
        began, before = self._clock(), self.seconds.all
        try:
            yield
        finally:
            with self._lock:
                self._add(stage, max(self._clock() - began - (self.seconds.all - before), 0.0))

    def once(self, stage: SetupStage) -> AbstractContextManager[None]:
        """Count the block as this stage if it is the first one of this method."""
        with self._lock:
            first, self._begun = not self._begun, True
        return self.during(stage) if first else nullcontext()

    def connected(self, seconds: float) -> None:
        """Count a request that connected for this long. The first one is a stage: nothing else could go on."""
        if seconds <= 0.0:
            return
        with self._lock:
            if not self.connect_seconds:
                self._add("connecting", seconds)
            self.connect_seconds += seconds

    def _add(self, stage: SetupStage, seconds: float) -> None:
        self.seconds = replace(self.seconds, **{stage: getattr(self.seconds, stage) + seconds})
