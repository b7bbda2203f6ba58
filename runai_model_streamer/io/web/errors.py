"""Explains failures of web servers to users, for all stores that make their requests with `WebObject`."""

from collections.abc import Callable
from typing import Final, TypeAlias

from runai_model_streamer.errors import (
    AccessDeniedError,
    CredentialsError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageUnreachableError,
)
from runai_model_streamer.io.http.answers import RELOAD, AnswerError
from runai_model_streamer.io.http.failures import (
    REFUSED,
    REFUSED_STATUSES,
    RETRIED,
    RETRIED_STATUSES,
    UNREACHABLE,
    TransportError,
)
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.frames import release_frames
from runai_model_streamer.io.objects.errors.network import CHECK_PROXY, CHECK_WAY, EASE, Way, explain_failure
from runai_model_streamer.io.objects.errors.translation import error_of
from runai_model_streamer.io.objects.store import FailedRequest
from runai_model_streamer.io.web.refusal import RefusedError
from runai_model_streamer.io.web.remote import Access

SIGN_AGAIN: Final = "If the URL is a signed link, it may have expired: make a new one."
_GIVE_CREDENTIALS: Final = (
    "Put the host's user into ~/.netrc (machine HOST login USER password PASSWORD), or its bearer token into "
    "RUNAI_STREAMER_HTTP_TOKEN (HOST=TOKEN)."
)
_AUTHORITIES: Final = (
    "Set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to a file with the certificate of the authority that issued it."
)
_NO_AUTHORITIES: Final = (
    "Install the system's package ca-certificates, or name a file of certificates in PEM form in SSL_CERT_FILE or "
    "REQUESTS_CA_BUNDLE."
)
_CHECK_URL: Final = "Check the URL; case counts. Some servers answer like this when credentials are missing."
_ASK: Final = "Ask the server's operator to let this user read the file."
_SENDABLE: Final = "Look for a line break, or a letter that is not ASCII, in the token or the netrc file."

Refusals: TypeAlias = Callable[[RefusedError], Explanation | None]
"""Explains a refusal if the store knows more about it than `refused`; else returns None."""


def judge(error: Exception) -> Judgement:
    """Say whether to retry a request that ended with this error, and release its references to the caller's buffer."""
    release_frames(error)
    if isinstance(error, RefusedError):
        return Judgement(
            str(error.answer),
            again=error.status in RETRIED_STATUSES,
            answered=True,
            refused=error.status in REFUSED_STATUSES,
        )
    if isinstance(error, TransportError):
        return Judgement(
            error.failure.value,
            again=error.failure in RETRIED,
            refused=error.failure in REFUSED,
            unreachable=error.failure in UNREACHABLE,
        )
    return Judgement(type(error).__name__, answered=isinstance(error, AnswerError))


def translated(error: Exception, failed: FailedRequest[Access], way: Way, refusals: Refusals) -> Exception:
    """Make our error from a request's. Return any other error as it is: that is a bug."""
    if isinstance(error, AnswerError):
        explanation = Explanation(error.kind, str(error), error.remedy, error.answer)
    elif isinstance(error, RefusedError):
        explanation = refusals(error) or refused(error)
    elif isinstance(error, TransportError):
        explanation = explain_failure(error, error.host or "the server", way)
    else:
        return error
    secrets = () if failed.access is None else failed.access.secrets
    return error_of(explanation, error, failed.path, failed.span, failed.attempts, secrets)


def way_to(timeout: float, *, opening: bool, plain: bool) -> Way:
    """Return the facts and remedies for failures on the way to a web server.

    Args:
        timeout: of a request, in seconds.
        opening: whether it has not answered any request yet.
        plain: whether the URL begins with http://.
    """
    return Way(
        timeout=timeout,
        opening=opening,
        check=CHECK_WAY,
        authorities=_AUTHORITIES,
        no_authorities=_NO_AUTHORITIES,
        plain="Write http:// instead of https://, or the port at which it speaks TLS.",
        wants_tls="If it speaks TLS at this port, write https:// instead of http://." if plain else "",
        credentials=_SENDABLE,
    )


def refused(error: RefusedError) -> Explanation:
    """Explain a refusal of any web server."""
    answer, status = error.answer, error.status
    host = f"{error.host}, to which the server redirects," if error.redirected else error.host
    match status:
        case 401 if error.authorized:
            return Explanation(CredentialsError, f"{host} does not accept the credentials", _GIVE_CREDENTIALS, answer)
        case 401:
            return Explanation(CredentialsError, f"{host} asks for credentials", _GIVE_CREDENTIALS, answer)
        case 403:
            remedy = SIGN_AGAIN if error.signed else _ASK if error.authorized else _GIVE_CREDENTIALS
            return Explanation(AccessDeniedError, f"access denied by {host}", remedy, answer)
        case 404 | 410:
            return Explanation(NotFoundError, f"{host} has no such file", _CHECK_URL, answer)
        case 407:
            return Explanation(StorageUnreachableError, "the proxy asks for a user and password", CHECK_PROXY, answer)
        case 412 | 416:
            return Explanation(SourceChangedError, "the file was written to while it was being read", RELOAD, answer)
        case _ if status in RETRIED_STATUSES:
            return Explanation(ReadError, f"{host} is failing or overloaded", EASE, answer)
        case _:
            remedy = SIGN_AGAIN if error.signed else _CHECK_URL
            return Explanation(ReadError, f"{host} refuses the request", remedy, answer)
