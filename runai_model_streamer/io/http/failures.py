"""What libcurl's error codes are as botocore's exceptions, so that a failure reads the same with either transport."""

import errno as errors
import http.client
import os
import re
import ssl
from typing import Final

from runai_model_streamer.io.http.libcurl import Code

_NO_PEER: Final = (Code.COULDNT_RESOLVE_HOST, Code.COULDNT_CONNECT)
_NO_PROXY: Final = (Code.COULDNT_RESOLVE_PROXY, Code.PROXY)
_TLS: Final = (Code.SSL_CONNECT_ERROR, Code.PEER_FAILED_VERIFICATION, Code.SSL_CACERT_BADFILE)
_NOT_HTTP: Final = (Code.UNSUPPORTED_PROTOCOL, Code.WEIRD_SERVER_REPLY, Code.OK)
_UNTRUSTED: Final = re.compile(r"certificate problem: (.*)")


def failure_of(code: int, says: str, errno: int, url: str, proxy: bool, *, stalled: bool, proxied: int) -> Exception:
    """The exception for a request that failed.

    Args:
        code: libcurl's.
        says: its words.
        errno: of the system call that failed; 0 for none.
        url: asked for.
        proxy: whether there is one on the way.
        stalled: it was ended since nothing came.
        proxied: status with which the proxy answered CONNECT; 0 if it was not asked or did not answer.
    """
    from botocore import exceptions as aws

    root: Exception = OSError(errno, os.strerror(errno)) if errno else OSError(says)
    made: Exception
    if stalled:
        made = aws.ReadTimeoutError(endpoint_url=url)
    elif code == Code.OPERATION_TIMEDOUT:
        made = aws.ConnectTimeoutError(endpoint_url=url)
    elif code in _NO_PROXY or (proxy and code == Code.COULDNT_CONNECT) or proxied >= 300:
        made = aws.ProxyConnectionError(proxy_url="the proxy", error=root)
    elif code in _NO_PEER:
        made = aws.EndpointConnectionError(endpoint_url=url, error=root)
    elif code in _TLS and errno not in (errors.ECONNRESET, errors.EPIPE):
        root = _tls_fault(code, says)
        made = aws.SSLError(endpoint_url=url, error=root)
    elif code in _NOT_HTTP:
        root = http.client.BadStatusLine(says)
        made = aws.ConnectionClosedError(endpoint_url=url, error=root)
    else:
        made = aws.ConnectionClosedError(endpoint_url=url, error=root)
    made.__cause__ = root
    return made


def _tls_fault(code: int, says: str) -> Exception:
    if code == Code.SSL_CACERT_BADFILE:
        return FileNotFoundError(errors.ENOENT, says)
    untrusted = _UNTRUSTED.search(says)
    if code == Code.PEER_FAILED_VERIFICATION:
        fault = ssl.SSLCertVerificationError(says)
        fault.verify_message = untrusted[1] if untrusted else says
        return fault
    other = ssl.SSLError(says)
    if "wrong version number" in says or "packet length too long" in says:
        other.reason = "WRONG_VERSION_NUMBER"
    return other
