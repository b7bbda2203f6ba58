"""Looks a store's name up once for all connections, and spreads them over its addresses.

libcurl would look it up for each connection. Hundreds of connections within a second are as many lookups, and with the
search domains of a cluster ten times as many queries: more than some resolvers answer. A store such as S3 has several
addresses, each of them other machines.
"""

import ipaddress
import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from runai_model_streamer.io.http.curl.health import Health

_FRESH: Final = 30.0
"""Seconds for which a lookup is used for new connections."""

_PORTS: Final = {"http": 80, "https": 443}


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a name, best first.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Known(NamedTuple):
    """What is known of a URL's server."""

    setting: str
    """Host, port and addresses as CURLOPT_RESOLVE takes them: in turn, and those that rest last."""
    health: Health | None
    """What the addresses have brought; None if there is only one."""


class Addresses:
    """The addresses of names that one transport connects to. Thread safe.

    Args:
        look: finds the addresses of a host and port.
        clock: returns seconds that never run backwards.
    """

    def __init__(
        self, look: Callable[[str, int], Sequence[str]] = look_up, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._names: dict[str, tuple[str, int] | None] = {}
        self._known: dict[tuple[str, int], tuple[float, Sequence[str]]] = {}
        self._health: dict[tuple[str, int], Health] = {}
        self._turns = itertools.count()

    def of(self, url: str) -> Known | None:
        """Return the addresses of a URL's server, those of one's turn first.

        Return None where libcurl has to look: in the main thread, which a lookup would keep from Ctrl-C, and where
        there is no name, or none that is found. Threads wait for each other's lookups.
        """
        server = url[: url.find("/", len("https://"))]
        if server not in self._names:
            self._names[server] = _name_in(server)
        name = self._names[server]
        if name is None or threading.current_thread() is threading.main_thread():
            return None
        host, port = name
        with self._lock:
            until, found = self._known.get(name, (0.0, ()))
            if self._clock() >= until:
                try:
                    found = self._look(host, port)
                except (OSError, UnicodeError):  # libcurl says why
                    found = ()
                self._known[name] = self._clock() + _FRESH, found
                if name in self._health:
                    self._health[name].become(found)
                elif len(found) > 1:
                    self._health[name] = Health(found, self._clock)
        if not found:
            return None
        health = self._health[name] if len(found) > 1 else None
        ordered = _in_turn(found, next(self._turns))
        if health is not None:
            ordered.sort(key=health.rests)
        return Known(f"+{host}:{port}:{','.join(map(_in_brackets, ordered))}", health)


def _name_in(server: str) -> tuple[str, int] | None:
    """Return the name and port of a URL's server; None if it has an address instead."""
    parts = urlsplit(server)
    host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return (host, port) if host else None
    return None


def _in_turn(addresses: Sequence[str], turn: int) -> list[str]:
    """Return the addresses of each family from another one on with each turn. The first family stays first."""
    first = ":" in addresses[0]
    found: list[str] = []
    for six in (first, not first):
        family = [each for each in addresses if (":" in each) is six]
        start = turn % max(len(family), 1)
        found += [*family[start:], *family[:start]]
    return found


def _in_brackets(address: str) -> str:
    return f"[{address}]" if ":" in address else address
