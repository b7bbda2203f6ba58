"""What each failure on the way to an object store means to the user: names, connections, proxies, TLS, time."""

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
from runai_model_streamer.io.s3.errors.meaning import Circumstances, Meaning

EASE: Final = (
    "Lower RUNAI_STREAMER_CONNECTIONS or raise RUNAI_STREAMER_S3_MAX_RETRIES; if it stays, ask who runs the store."
)
CHECK_PROXY: Final = "Check HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY."
_SLOW: Final = "Raise RUNAI_STREAMER_S3_TIMEOUT (seconds) or lower RUNAI_STREAMER_CONNECTIONS, if the store is slow."
_CHECK_WAY: Final = "Check its host and port, the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."


def network_fault(error: Exception, at: Circumstances) -> Meaning | None:
    """None for an exception that says nothing of the way to the store."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        # It quotes all of the answer, in which a provider of credentials may have sent some.
        stranger = "what answered is neither a store nor one that gives credentials"
        return Meaning(ReadError, stranger, _check_way("", at), telling=True)
    broken = failure_of(error)
    if broken is not None:
        return _meaning_of(broken, broken.host or "the store", at)
    if isinstance(error, aws.BotoCoreError):
        return Meaning(ReadError, f"botocore failed ({type(error).__name__}): {error}", _check_way("the store", at))
    return None


def _meaning_of(broken: TransportError, host: str, at: Circumstances) -> Meaning:
    check = _check_way(host, at)
    why = broken.detail
    match broken.failure:
        case Failure.LENGTH:
            return Meaning(ReadError, f"{why}, every time", EASE)
        case Failure.TOO_MANY_FILES:
            remedy = "Raise the limit with `ulimit -n`, or lower RUNAI_STREAMER_CONNECTIONS."
            return Meaning(ReadError, "too many open files", remedy)
        case Failure.CONNECT_TIMEOUT:
            return Meaning(StorageTimeoutError, f"no connection to {host} within {at.timeout:g} s", check)
        case Failure.STALLED:
            return Meaning(StorageTimeoutError, f"{host} sent nothing for {at.timeout:g} s", _SLOW)
        case Failure.SLOW:
            little = f"{host} sent less than {MIN_SPEED} bytes per second for {at.timeout:g} s"
            return Meaning(StorageTimeoutError, little, _SLOW)
        case Failure.UNTRUSTED:
            summary = f"the certificate of {host} is not trusted: {why}"
            remedy = f"Set AWS_CA_BUNDLE to a file with the certificate of the authority that issued it. {check}"
            return Meaning(StorageUnreachableError, summary, remedy)
        case Failure.NOT_TLS:
            plain = at.provenance.with_scheme("http") or "http:// instead of https://"
            remedy = f"{at.provenance.endpoint_told()} Write {plain}, or the port at which it speaks TLS.".lstrip()
            return Meaning(StorageUnreachableError, f"{host} does not speak TLS", remedy)
        case Failure.NO_AUTHORITIES:
            remedy = (
                "It is that of AWS_CA_BUNDLE, else of the profile's ca_bundle, else of REQUESTS_CA_BUNDLE: name a file "
                "of certificates in PEM form there, or unset it."
            )
            return Meaning(ConfigError, "the file of certificates to trust cannot be read", remedy)
        case Failure.TLS:
            return Meaning(StorageUnreachableError, f"no TLS connection to {host}: {why}", check)
        case Failure.PROXY:
            return Meaning(StorageUnreachableError, f"no connection through the proxy: {why}", CHECK_PROXY)
        case Failure.NAME | Failure.BAD_HOST | Failure.CONNECT:
            return Meaning(StorageUnreachableError, f"no connection to {host}: {why}", check)
        case Failure.NOT_HTTP:
            return Meaning(StorageUnreachableError, f"{host} does not speak HTTP", f"{check} {wants_tls(at)}".rstrip())
        case Failure.UNSENDABLE:
            # What refuses a header quotes it, and with it the token.
            remedy = "Look for a line break, or a letter that is not ASCII, in AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN."
            return Meaning(CredentialsError, "the credentials cannot be sent", remedy, telling=True)
        case Failure.CLOSED:
            remedy = EASE
            if at.opening and (hint := wants_tls(at)):
                remedy = f"{hint} Else the store is overloaded, or something in between hangs up: ask who runs it."
            return Meaning(StorageUnreachableError, f"the connection to {host} broke: {why}", remedy)


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
