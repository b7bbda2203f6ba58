"""Tells which of a name's addresses serve worse than the others, so that connections go elsewhere for a while.

A store such as S3, or a name with a gateway behind each address, has several machines. One that is dead, refuses
requests or is slow must not hold up what the others would serve. So each address is judged by what others of the same
name bring: where all are slow, or all refuse, the store is, and its addresses stay.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

REST: Final = 30.0
"""Seconds for which no connection goes to an address. Then it is tried again."""

KEPT: Final = 8
"""Requests to an address that count: the last ones."""

KNOWN: Final = 4
"""Minimum of them, and of those to others, before an address is slow."""

SLOW: Final = 1 / 3
"""An address is slow if the median of its rates is less than this part of the others'."""

REFUSALS: Final = 2
"""Minimum refusals before an address refuses, ..."""

SHARE: Final = 4.0
"""... and how many times as large as the others' their part has to be."""

REFUSED: Final = 0.0
"""The rate of a request that was refused, or that nothing came of in time."""


@dataclass(slots=True)
class _Address:
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    count: int = 0
    until: float = 0.0
    """When it is tried again."""


class Health:
    """What the addresses of one name have brought. Thread safe.

    Args:
        addresses: at least two, best first.
        clock: returns seconds that never run backwards.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known = {address: _Address() for address in addresses}
        self._patient_until = 0.0

    def become(self, addresses: Sequence[str]) -> None:
        """Go on with these addresses, which a later lookup has found."""
        with self._lock:
            self._known = {address: self._known.get(address) or _Address() for address in addresses}

    @property
    def hurried(self) -> bool:
        """Whether to try another address soon if the first takes no connection: several serve, as far as is known."""
        return self._clock() >= self._patient_until and sum(not self.rests(each) for each in list(self._known)) > 1

    def rests(self, address: str) -> bool:
        """Return whether no connection is to go there now."""
        known = self._known.get(address)
        return known is not None and known.until > self._clock()

    def unreachable(self, address: str) -> None:
        """Note that no connection could be made."""
        with self._lock:
            self._rest(address)

    def served(self, address: str, rate: float) -> bool:
        """Note a request: the bytes a second of its answer, or `REFUSED`. Return whether the address rests now."""
        known = self._known.get(address)
        if known is None:
            return False
        with self._lock:
            known.rates.append(rate)
            known.count += 1
            # Rates are compared now and then only, since each range comes here.
            if (rate == REFUSED or known.count % KNOWN == 0) and not self.rests(address) and self._is_worse(address):
                return self._rest(address)
        return self.rests(address)

    def _is_worse(self, address: str) -> bool:
        own = self._known[address].rates
        others = [
            rate
            for other, known in self._known.items()
            if other != address and not self.rests(other)
            for rate in known.rates
        ]
        refused = own.count(REFUSED)
        if refused >= REFUSALS and len(others) >= REFUSALS:
            return refused * len(others) > SHARE * others.count(REFUSED) * len(own)
        if min(len(own), len(others)) < KNOWN:
            return False
        return statistics.median(own) < SLOW * statistics.median(others)

    def _rest(self, address: str) -> bool:
        """Let an address rest. If it is the last one, none is worse than the others: none rests."""
        known = self._known.get(address)
        if known is None:
            return False
        if all(self.rests(other) for other in self._known if other != address):
            for each in self._known.values():
                each.until = 0.0
            self._patient_until = self._clock() + REST
            return False
        known.until = self._clock() + REST
        known.rates.clear()
        known.count = 0
        return True
