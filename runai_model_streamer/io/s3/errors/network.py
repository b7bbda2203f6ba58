"""Explains failures on the way to an object store: names, connections, proxies, TLS, timeouts."""

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
from runai_model_streamer.io.s3.errors.boto3_failures import failure_of
from runai_model_streamer.io.s3.errors.explanation import Explanation, RequestContext

EASE: Final = (
    "Lower RUNAI_STREAMER_CONNECTIONS or raise RUNAI_STREAMER_S3_MAX_RETRIES. If it persists, ask the store's operator."
)
CHECK_PROXY: Final = "Check HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY."
_SLOW: Final = "If the store is slow, raise RUNAI_STREAMER_S3_TIMEOUT (seconds) or lower RUNAI_STREAMER_CONNECTIONS."
_CHECK_WAY: Final = "Check its host and port, the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."


def explain_network(error: Exception, at: RequestContext) -> Explanation | None:
    """Explain an exception of the network or of botocore; None for any other."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        # It quotes the whole answer, which may be one with credentials.
        problem = "the answer is neither a store's nor a credential provider's"
        return Explanation(ReadError, problem, _check_way("", at), hide_cause=True)
    broken = failure_of(error)
    if broken is not None:
        return _explain(broken, broken.host or "the store", at)
    if isinstance(error, aws.BotoCoreError):
        return Explanation(ReadError, f"botocore failed ({type(error).__name__}): {error}", _check_way("the store", at))
    return None


def _explain(broken: TransportError, host: str, at: RequestContext) -> Explanation:
    check = _check_way(host, at)
    why = broken.detail
    match broken.failure:
        case Failure.LENGTH:
            return Explanation(ReadError, f"{why}, every time", EASE)
        case Failure.TOO_MANY_FILES:
            remedy = "Raise the limit with `ulimit -n`, or lower RUNAI_STREAMER_CONNECTIONS."
            return Explanation(ReadError, "too many open files", remedy)
        case Failure.CONNECT_TIMEOUT:
            return Explanation(StorageTimeoutError, f"no connection to {host} within {at.timeout:g} s", check)
        case Failure.STALLED:
            return Explanation(StorageTimeoutError, f"{host} sent nothing for {at.timeout:g} s", _SLOW)
        case Failure.SLOW:
            little = f"{host} sent less than {MIN_SPEED} bytes per second for {at.timeout:g} s"
            return Explanation(StorageTimeoutError, little, _SLOW)
        case Failure.UNTRUSTED:
            summary = f"the certificate of {host} is not trusted: {why}"
            remedy = f"Set AWS_CA_BUNDLE to a file with the certificate of the authority that issued it. {check}"
            return Explanation(StorageUnreachableError, summary, remedy)
        case Failure.NOT_TLS:
            plain = at.provenance.with_scheme("http") or "http:// instead of https://"
            remedy = f"{at.provenance.endpoint_sentence()} Write {plain}, or the port at which it speaks TLS.".lstrip()
            return Explanation(StorageUnreachableError, f"{host} does not speak TLS", remedy)
        case Failure.NO_AUTHORITIES:
            remedy = (
                "AWS_CA_BUNDLE names it, else the profile's ca_bundle, else REQUESTS_CA_BUNDLE: name a file of "
                "certificates in PEM form there, or unset it."
            )
            return Explanation(ConfigError, "the file of trusted certificates cannot be read", remedy)
        case Failure.TLS:
            return Explanation(StorageUnreachableError, f"no TLS connection to {host}: {why}", check)
        case Failure.PROXY:
            return Explanation(StorageUnreachableError, f"no connection through the proxy: {why}", CHECK_PROXY)
        case Failure.NAME | Failure.BAD_HOST | Failure.CONNECT:
            return Explanation(StorageUnreachableError, f"no connection to {host}: {why}", check)
        case Failure.NOT_HTTP:
            return Explanation(
                StorageUnreachableError, f"{host} does not speak HTTP", f"{check} {wants_tls(at)}".rstrip()
            )
        case Failure.UNSENDABLE:
            # The original error quotes the header, and so the token.
            remedy = "Look for a line break, or a letter that is not ASCII, in AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN."
            return Explanation(CredentialsError, "the credentials cannot be sent", remedy, hide_cause=True)
        case Failure.CLOSED:
            remedy = EASE
            if at.opening and (hint := wants_tls(at)):
                remedy = f"{hint} Otherwise the store is overloaded or a proxy closes connections: ask the operator."
            return Explanation(StorageUnreachableError, f"the connection to {host} broke: {why}", remedy)


def wants_tls(at: RequestContext) -> str:
    """Return the hint to try https://; "" if the endpoint has it already."""
    if not at.provenance.endpoint.startswith("http://"):
        return ""
    return f"If it speaks TLS at this port, write {at.provenance.with_scheme('https')} instead."


def _check_way(host: str, at: RequestContext) -> str:
    told = at.provenance.endpoint_sentence() or (
        "The endpoint is AWS's, or the one in AWS_ENDPOINT_URL, RUNAI_STREAMER_S3_ENDPOINT or S3Credentials(...)."
    )
    if at.provenance.is_aws:
        return f"{told} For AWS, check the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    check = f"{told} {_CHECK_WAY}"
    if host.startswith(f"{at.bucket}."):
        check += " If the store has no host name for each bucket, set RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING=0."
    return check
