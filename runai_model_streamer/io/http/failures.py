"""What can go wrong on the way to a server, and what a retry may cure.

Every transport reports a `Failure`. Code above a transport never sees its library's exceptions or numbers.
"""

from collections.abc import Collection
from enum import Enum
from typing import Final
from urllib.parse import urlsplit


class Failure(Enum):
    """Why an answer, or the rest of one, did not arrive. The values are for log lines."""

    BAD_HOST = "the host has no usable name"
    """The host's name is malformed."""
    NAME = "the host's name was not found"
    """The host's name was not found."""
    CONNECT = "no connection"
    """No connection: refused, or no route."""
    CONNECT_TIMEOUT = "no connection in time"
    """No connection, or no TLS on it, within the timeout."""
    PROXY = "no connection through the proxy"
    """No connection through the proxy."""
    UNTRUSTED = "the certificate is not trusted"
    """The certificate of the other side is not trusted."""
    NOT_TLS = "the other side does not speak TLS"
    """The other side answers a TLS greeting with something else."""
    NO_AUTHORITIES = "no certificates to trust"
    """The file of certificates to trust cannot be read."""
    TLS = "no TLS connection"
    """TLS failed in another way."""
    STALLED = "nothing came"
    """No byte arrived within the timeout."""
    SLOW = "the answer is too slow"
    """Bytes arrived slower than `transport.MIN_SPEED` over the timeout."""
    CLOSED = "the connection broke"
    """The connection ended, or broke."""
    NOT_HTTP = "the answer is not HTTP"
    """The other side answered with something that is not HTTP."""
    LENGTH = "the body has the wrong length"
    """The body is shorter or longer than announced."""
    TOO_MANY_FILES = "too many open files"
    """This process, or this machine, can open no more files or connections."""
    UNSENDABLE = "a header cannot be sent"
    """A header of the request has a character that HTTP forbids."""


RETRIED: Final[Collection[Failure]] = frozenset(
    {
        Failure.NAME,
        Failure.CONNECT,
        Failure.CONNECT_TIMEOUT,
        Failure.PROXY,
        Failure.TLS,
        Failure.STALLED,
        Failure.SLOW,
        Failure.CLOSED,
        Failure.NOT_HTTP,
        Failure.LENGTH,
        Failure.TOO_MANY_FILES,
    }
)
"""A retry may succeed."""

UNREACHABLE: Final[Collection[Failure]] = frozenset(
    {Failure.NAME, Failure.CONNECT, Failure.CONNECT_TIMEOUT, Failure.PROXY}
)
"""There was no connection at all."""

REFUSED: Final[Collection[Failure]] = frozenset(
    {Failure.CONNECT_TIMEOUT, Failure.STALLED, Failure.SLOW, Failure.TOO_MANY_FILES}
)
"""There may be too many requests at once."""

REFUSED_STATUSES: Final[Collection[int]] = frozenset({429, 503})
"""HTTP statuses of a server that has too many requests."""

RETRIED_STATUSES: Final[Collection[int]] = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which a retry may succeed."""


class TransportError(Exception):
    """An answer, or the rest of one, did not arrive.

    Args:
        failure: why.
        detail: the message of the system or the library.
        url: the URL requested; only its host is kept.
    """

    def __init__(self, failure: Failure, detail: str = "", url: str = "") -> None:
        super().__init__(f"{failure.value}: {detail}" if detail else failure.value)
        self.failure = failure
        self.detail = detail
        self.host = ""
        """With its port; "" if it is not known."""
        self.name_host(url)

    def name_host(self, url: str) -> None:
        """Take the host from the URL requested, unless it is known."""
        self.host = self.host or urlsplit(url).netloc.rpartition("@")[2]


def wrong_length(came: int, asked: int) -> TransportError:
    """Make the error for a body of the wrong length."""
    return TransportError(Failure.LENGTH, f"the answer's body had {came} bytes instead of {asked}")
