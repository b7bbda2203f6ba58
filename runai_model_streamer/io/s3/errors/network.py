"""What each failure on the way to an object store means to the user: names, connections, proxies, TLS, time."""

import errno
import http.client
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from runai_model_streamer.errors import (
    ConfigError,
    CredentialsError,
    ReadError,
    StorageTimeoutError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.http.transport import BodyLengthError, SlowBodyError
from runai_model_streamer.io.s3.errors.meaning import Circumstances, Meaning

EASE: Final = (
    "Lower RUNAI_STREAMER_CONCURRENCY or raise RUNAI_STREAMER_S3_MAX_RETRIES; if it stays, ask who runs the store."
)
CHECK_PROXY: Final = "Check HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY."
_CHECK_WAY: Final = "Check its host and port, the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."


def network_fault(error: Any, at: Circumstances) -> Meaning | None:
    """None for an exception that is not of the network."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    if isinstance(error, BodyLengthError):
        return Meaning(ReadError, f"{error}, every time", EASE)
    if isinstance(error, ResponseParserError):
        # It quotes all of the answer, in which a provider of credentials may have sent some.
        stranger = "what answered is neither a store nor one that gives credentials"
        return Meaning(ReadError, stranger, _check_way("", at), telling=True)
    root = root_of(error)
    if getattr(root, "errno", None) in (errno.EMFILE, errno.ENFILE):
        remedy = "Raise the limit with `ulimit -n`, or lower RUNAI_STREAMER_CONCURRENCY."
        return Meaning(ReadError, "too many open files", remedy)
    why = getattr(root, "strerror", None) or str(root) or type(root).__name__
    host = urlsplit(getattr(error, "kwargs", {}).get("endpoint_url") or "").netloc.rpartition("@")[2] or "the store"
    check = _check_way(host, at)
    if isinstance(error, aws.ConnectTimeoutError):
        return Meaning(StorageTimeoutError, f"no connection to {host} within {at.timeout:g} s", check)
    if isinstance(error, aws.ReadTimeoutError | ReadTimeoutError | TimeoutError):
        remedy = "Raise RUNAI_STREAMER_S3_TIMEOUT (seconds) or lower RUNAI_STREAMER_CONCURRENCY, if the store is slow."
        what = str(error) if isinstance(error, SlowBodyError) else f"sent nothing for {at.timeout:g} s"
        return Meaning(StorageTimeoutError, f"{host} {what}", remedy)
    if isinstance(error, aws.SSLError):
        return _tls_fault(error, host, check, at)
    if isinstance(error, aws.ProxyConnectionError):
        return Meaning(StorageUnreachableError, f"no connection through the proxy: {why}", CHECK_PROXY)
    if isinstance(error, aws.ConnectionError):
        return Meaning(StorageUnreachableError, f"no connection to {host}: {why}", check)
    if isinstance(root, http.client.BadStatusLine) and not isinstance(root, http.client.RemoteDisconnected):
        return Meaning(StorageUnreachableError, f"{host} does not speak HTTP", f"{check} {wants_tls(at)}".rstrip())
    if isinstance(error, aws.HTTPClientError) and isinstance(root, ValueError) and not isinstance(root, UnicodeError):
        # http.client quotes the header that it refuses, and with it the token.
        remedy = "Look for a line break in AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN."
        return Meaning(CredentialsError, "the credentials cannot be sent", remedy, telling=True)
    if isinstance(error, aws.HTTPClientError | HTTPError | OSError | http.client.HTTPException):
        remedy = EASE
        if at.opening and (hint := wants_tls(at)):
            remedy = f"{hint} Else the store is overloaded, or something in between hangs up: ask who runs it."
        return Meaning(StorageUnreachableError, f"the connection to {host} broke: {why}", remedy)
    if isinstance(error, aws.BotoCoreError):
        return Meaning(ReadError, f"botocore failed ({type(error).__name__}): {error}", check)
    return None


def wants_tls(at: Circumstances) -> str:
    """What to do if the other side waits for TLS; "" where it has it already."""
    if not at.provenance.endpoint.startswith("http://"):
        return ""
    return f"If it speaks TLS at this port, write {at.provenance.with_scheme('https')} instead."


def _check_way(host: str, at: Circumstances) -> str:
    told = at.provenance.endpoint_told() or (
        "The endpoint is AWS's, or that of AWS_ENDPOINT_URL, RUNAI_STREAMER_S3_ENDPOINT or S3Credentials(...)."
    )
    if at.provenance.is_aws:
        return f"{told} For AWS, check the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    check = f"{told} {_CHECK_WAY}"
    if host.startswith(f"{at.bucket}."):
        check += " If the store has no host for each bucket, set RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING=0."
    return check


def _tls_fault(error: BaseException, host: str, check: str, at: Circumstances) -> Meaning:
    root = root_of(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        summary = f"the certificate of {host} is not trusted: {root.verify_message}"
        remedy = f"Set AWS_CA_BUNDLE to a file with the certificate of the authority that issued it. {check}"
        return Meaning(StorageUnreachableError, summary, remedy)
    if is_no_tls(root):
        plain = at.provenance.with_scheme("http") or "http:// instead of https://"
        remedy = f"{at.provenance.endpoint_told()} Write {plain}, or the port at which it speaks TLS.".lstrip()
        return Meaning(StorageUnreachableError, f"{host} does not speak TLS", remedy)
    if is_no_bundle(error):
        remedy = (
            "It is that of AWS_CA_BUNDLE, else of the profile's ca_bundle, else of REQUESTS_CA_BUNDLE: name a file of "
            "certificates in PEM form there, or unset it."
        )
        return Meaning(ConfigError, "the file of certificates to trust cannot be read", remedy)
    return Meaning(StorageUnreachableError, f"no TLS connection to {host}: {root}", check)


def is_no_tls(root: BaseException) -> bool:
    """Whether the other side answers a TLS greeting with something else."""
    return isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")


def is_no_bundle(error: BaseException) -> bool:
    """Whether the file of certificates to trust is none, or holds none."""
    from botocore import exceptions as aws

    root = root_of(error)
    unreadable = isinstance(root, FileNotFoundError | IsADirectoryError | PermissionError)
    return isinstance(error, aws.SSLError) and (unreadable or getattr(root, "library", "") == "X509")


def root_of(error: BaseException) -> BaseException:
    """The exception that the others were made from."""
    *_, root = chain_of(error)
    return root


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was made from, and so on."""
    yield error
    deeper = error.__cause__ or error.__context__
    # One of ours is what the caller was handling when it called.
    if deeper is not None and not isinstance(deeper, StreamerError):
        yield from chain_of(deeper)
