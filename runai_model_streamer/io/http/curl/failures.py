"""Maps the result of a libcurl request to a `Failure`."""

import errno as errors
import os
import re
from collections.abc import Mapping
from typing import Final

from runai_model_streamer.io.http.curl.libcurl import Code
from runai_model_streamer.io.http.failures import Failure, TransportError

_BY_CODE: Final[Mapping[int, Failure]] = {
    Code.OK: Failure.NOT_HTTP,
    Code.UNSUPPORTED_PROTOCOL: Failure.NOT_HTTP,
    Code.WEIRD_SERVER_REPLY: Failure.NOT_HTTP,
    Code.URL_MALFORMAT: Failure.BAD_HOST,
    Code.COULDNT_RESOLVE_PROXY: Failure.PROXY,
    Code.PROXY: Failure.PROXY,
    Code.COULDNT_RESOLVE_HOST: Failure.NAME,
    Code.COULDNT_CONNECT: Failure.CONNECT,
    Code.OPERATION_TIMEDOUT: Failure.CONNECT_TIMEOUT,
    Code.SSL_CONNECT_ERROR: Failure.TLS,
    Code.PEER_FAILED_VERIFICATION: Failure.UNTRUSTED,
    Code.SSL_CACERT_BADFILE: Failure.NO_AUTHORITIES,
}
"""Any other code means that the connection broke."""

_TLS: Final = (Failure.TLS, Failure.UNTRUSTED, Failure.NO_AUTHORITIES)
_BROKEN: Final = (errors.ECONNRESET, errors.EPIPE)
_NOT_TLS: Final = ("wrong version number", "packet length too long")
_UNTRUSTED: Final = re.compile(r"certificate problem: (.*)")


def failure_of(code: int, says: str, errno: int, url: str, *, proxy: bool, proxy_status: int) -> TransportError:
    """Make the error for a libcurl request that failed.

    Args:
        code: libcurl's result.
        says: libcurl's message.
        errno: error number of the system call that failed; 0 for none.
        url: the URL requested.
        proxy: whether the request went through a proxy.
        proxy_status: the proxy's HTTP status for CONNECT; 0 if it was not asked or did not answer.
    """
    detail = os.strerror(errno) if errno else says
    failure = _BY_CODE.get(code, Failure.CLOSED)
    if errno in (errors.EMFILE, errors.ENFILE):
        failure = Failure.TOO_MANY_FILES
    elif failure is not Failure.CONNECT_TIMEOUT and (proxy_status >= 300 or (proxy and failure is Failure.CONNECT)):
        failure = Failure.PROXY
    elif failure in _TLS and errno in _BROKEN:
        failure = Failure.CLOSED
    elif failure is Failure.UNTRUSTED:
        untrusted = _UNTRUSTED.search(says)
        detail = untrusted[1] if untrusted else says
    elif failure in _TLS:
        detail = says
        if failure is Failure.TLS and any(words in says for words in _NOT_TLS):
            failure = Failure.NOT_TLS
    return TransportError(failure, detail, url)
