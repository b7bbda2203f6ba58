"""Explains failures on the way to an object store: names, connections, proxies, TLS, timeouts."""

from dataclasses import dataclass
from typing import Final

from runai_model_streamer.errors import (
    ConfigError,
    CredentialsError,
    ReadError,
    StorageTimeoutError,
    StorageUnreachableError,
)
from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.http.transport import MIN_SPEED
from runai_model_streamer.io.objects.errors.explanation import Explanation

EASE: Final = (
    "Lower RUNAI_STREAMER_CONNECTIONS or raise RUNAI_STREAMER_S3_MAX_RETRIES. If it persists, ask the store's operator."
)
CHECK_PROXY: Final = "Check HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY."
_SLOW: Final = "If the store is slow, raise RUNAI_STREAMER_S3_TIMEOUT (seconds) or lower RUNAI_STREAMER_CONNECTIONS."
CHECK_WAY: Final = "Check its host and port, the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."


@dataclass(frozen=True, slots=True)
class Way:
    """The facts and remedies of one store for failures on the way to it."""

    timeout: float
    """Timeout of a request, in seconds."""
    opening: bool
    """The store has not answered any request yet."""
    check: str
    """What to check if there is no connection."""
    authorities: str
    """How to trust another certificate authority."""
    no_authorities: str
    """Which file of certificates to correct."""
    plain: str
    """What to do if the other side does not speak TLS."""
    wants_tls: str
    """What to do if the other side waits for TLS; "" if it has it."""
    credentials: str
    """What to look for in credentials that cannot be put into a header."""


def explain_failure(broken: TransportError, host: str, way: Way) -> Explanation:
    """Explain why this host gave no complete answer."""
    why = broken.detail
    match broken.failure:
        case Failure.LENGTH:
            return Explanation(ReadError, f"{why}, every time", EASE)
        case Failure.TOO_MANY_FILES:
            remedy = "Raise the limit with `ulimit -n`, or lower RUNAI_STREAMER_CONNECTIONS."
            return Explanation(ReadError, "too many open files", remedy)
        case Failure.CONNECT_TIMEOUT:
            return Explanation(StorageTimeoutError, f"no connection to {host} within {way.timeout:g} s", way.check)
        case Failure.STALLED:
            nothing = f"{host} sent no answer, or no more of it, for {way.timeout:g} s"
            return Explanation(StorageTimeoutError, nothing, _SLOW)
        case Failure.SLOW:
            little = f"{host} sent less than {MIN_SPEED} bytes per second for {way.timeout:g} s"
            return Explanation(StorageTimeoutError, little, _SLOW)
        case Failure.UNTRUSTED:
            summary = f"the certificate of {host} is not trusted: {why}"
            return Explanation(StorageUnreachableError, summary, f"{way.authorities} {way.check}")
        case Failure.NOT_TLS:
            return Explanation(StorageUnreachableError, f"{host} does not speak TLS", way.plain)
        case Failure.NO_AUTHORITIES:
            return Explanation(ConfigError, "the file of trusted certificates cannot be read", way.no_authorities)
        case Failure.TLS:
            return Explanation(StorageUnreachableError, f"no TLS connection to {host}: {why}", way.check)
        case Failure.PROXY:
            return Explanation(StorageUnreachableError, f"no connection through the proxy: {why}", CHECK_PROXY)
        case Failure.NAME | Failure.BAD_HOST | Failure.CONNECT:
            return Explanation(StorageUnreachableError, f"no connection to {host}: {why}", way.check)
        case Failure.NOT_HTTP:
            return Explanation(
                StorageUnreachableError, f"{host} does not speak HTTP", f"{way.check} {way.wants_tls}".rstrip()
            )
        case Failure.UNSENDABLE:
            # The original error quotes the header, and so the token.
            return Explanation(CredentialsError, "the credentials cannot be sent", way.credentials, hide_cause=True)
        case Failure.CLOSED:
            remedy = EASE
            if way.opening and way.wants_tls:
                remedy = (
                    f"{way.wants_tls} Otherwise the store is overloaded or a proxy closes connections: ask the "
                    "operator."
                )
            return Explanation(StorageUnreachableError, f"the connection to {host} broke: {why}", remedy)
