"""Maps the exceptions of botocore, urllib3 and sockets to a `Failure`.

No other module knows these exceptions. It serves the boto3 transport, and the requests that botocore sends itself.
"""

import errno
import http.client
import socket
import ssl
from typing import Any

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.objects.errors.frames import chain_of


def failure_of(error: Exception) -> TransportError | None:
    """Convert an exception to a TransportError; None if it is not one of the network's."""
    root = root_of(error)
    for known in (error, root):
        if isinstance(known, TransportError):
            return known
    failure = _failure_of(error)
    if failure is None:
        return None
    detail = getattr(root, "verify_message", None) or getattr(root, "strerror", None) or str(root)
    given: Any = getattr(error, "kwargs", {})
    return TransportError(failure, str(detail) or type(root).__name__, given.get("endpoint_url") or "")


def _failure_of(error: Exception) -> Failure | None:
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    root = root_of(error)
    if getattr(root, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return Failure.TOO_MANY_FILES
    if isinstance(error, aws.SSLError):
        return _tls_failure(root)
    if isinstance(error, aws.ConnectTimeoutError):
        return Failure.CONNECT_TIMEOUT
    if isinstance(error, aws.ReadTimeoutError | ReadTimeoutError | TimeoutError):
        return Failure.STALLED
    if isinstance(error, aws.ProxyConnectionError):
        return Failure.PROXY
    if isinstance(error, aws.ConnectionError):
        return Failure.NAME if isinstance(root, socket.gaierror) else Failure.CONNECT
    if isinstance(root, http.client.BadStatusLine) and not isinstance(root, http.client.RemoteDisconnected):
        return Failure.NOT_HTTP
    if isinstance(error, aws.HTTPClientError) and isinstance(root, ValueError):
        header = not isinstance(root, UnicodeError) or getattr(root, "encoding", "") == "latin-1"
        return Failure.UNSENDABLE if header else Failure.BAD_HOST
    if isinstance(root, OSError) and root.filename:
        return None  # a file of settings or credentials
    if isinstance(error, aws.HTTPClientError | HTTPError | OSError | http.client.HTTPException):
        return Failure.CLOSED
    return None


def _tls_failure(root: BaseException) -> Failure:
    if isinstance(root, ssl.SSLCertVerificationError):
        return Failure.UNTRUSTED
    if isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return Failure.NOT_TLS
    unreadable = isinstance(root, FileNotFoundError | IsADirectoryError | PermissionError)
    if unreadable or getattr(root, "library", "") == "X509":
        return Failure.NO_AUTHORITIES
    return Failure.TLS


def root_of(error: BaseException) -> BaseException:
    """Return the last exception of the chain: the one that started it."""
    *_, root = chain_of(error)
    return root
