"""What each failure of an object store means to the user: which of our errors it is, what happened, what to do."""

import http.client
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentError,
    ConfigError,
    CredentialsError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageTimeoutError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.ranges import ByteRange
from runai_model_streamer.io.s3_answers import RELOAD, Answer, AnswerError
from runai_model_streamer.io.transport import BodyLengthError, SlowBodyError

_GIVE_KEYS: Final = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary credentials), choose a "
    "profile of ~/.aws with AWS_PROFILE, or pass s3_credentials=S3Credentials(...). A public bucket needs none: "
    "set RUNAI_STREAMER_S3_UNSIGNED=1."
)
_CHECK_KEYS: Final = (
    "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or the profile, or S3Credentials): all "
    "three belong together, and to the store at AWS_ENDPOINT_URL."
)
_RENEW_KEYS: Final = (
    "Get new ones (aws sso login, or whoever issues yours), and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
    "AWS_SESSION_TOKEN together."
)
_CHECK_ENDPOINT: Final = "Check AWS_ENDPOINT_URL or RUNAI_STREAMER_S3_ENDPOINT, the network and the proxy settings."
_EASE: Final = (
    "Lower RUNAI_STREAMER_CONCURRENCY or raise RUNAI_STREAMER_S3_MAX_RETRIES; if it stays, ask who runs the store."
)

_GRANT: Final = (
    "Grant these credentials s3:GetObject (without s3:ListBucket a missing object looks like this, too). "
    "If the bucket is public, set RUNAI_STREAMER_S3_UNSIGNED=1."
)
_GRANT_LIST: Final = (
    "Grant these credentials s3:ListBucket on the bucket itself. If it is public, set RUNAI_STREAMER_S3_UNSIGNED=1 "
    "(many public buckets serve their objects, but no list of them)."
)
_UNSIGNED: Final = "The bucket is not public: unset RUNAI_STREAMER_S3_UNSIGNED and give credentials."

EXPIRED: Final = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_OTHER_REGION: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_REDIRECTS: Final = (301, 302, 307, 308)
PASSING_STATUSES: Final = (408, 429, 500, 502, 503, 504)
PASSING_CODES: Final = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling")

_PROVIDERS: Final = (
    "CredentialRetrieval",
    "Infinite",
    "InvalidConfig",
    "Login",
    "Metadata",
    "RefreshWithMFA",
    "SSO",
    "TokenRetrieval",
    "UnauthorizedSSO",
    "UnknownCredential",
)
"""Beginnings of the names of the errors of botocore's credential providers, some of which are newer than others."""

_BY_CODE: Final[Mapping[str, tuple[type[StreamerError], str, str]]] = {
    **dict.fromkeys(EXPIRED, (CredentialsError, "the credentials have expired", _RENEW_KEYS)),
    "InvalidAccessKeyId": (CredentialsError, "the store does not know the access key", _CHECK_KEYS),
    "InvalidClientTokenId": (CredentialsError, "the store does not accept the credentials", _CHECK_KEYS),
    "InvalidObjectState": (ReadError, "the object is archived", "Restore it from its storage class (Glacier) first."),
    "InvalidToken": (CredentialsError, "the store does not accept the session token", _CHECK_KEYS),
    "NoSuchBucket": (
        NotFoundError,
        "there is no bucket {bucket}",
        "Check its name, and AWS_ENDPOINT_URL if the store is not AWS.",
    ),
    "RequestTimeTooSkewed": (CredentialsError, "this machine's clock and the store's differ", "Set the clock (NTP)."),
    "SignatureDoesNotMatch": (CredentialsError, "the secret access key is not the access key's", _CHECK_KEYS),
}
"""Codes that mean the same with any status: our error, what happened, what to do."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What was being done when it went wrong."""

    path: str
    bucket: str
    span: ByteRange | None
    """None where keys were listed."""
    attempts: int
    seconds: float
    timeout: float
    unsigned: bool = False
    secrets: Collection[str] = ()


class Meaning(NamedTuple):
    """What a failure is to the user."""

    kind: type[StreamerError]
    summary: str
    remedy: str
    answer: Answer | None = None
    quote: str = ""
    """The store's own words."""
    telling: bool = False
    """The foreign error's text may give a secret away."""
    local: bool = False
    """Nothing was asked of the store."""


def meaning_of(error: Exception, at: Circumstances) -> Meaning | None:
    """None for an exception that is none of the store's, botocore's or the network's."""
    if isinstance(error, AnswerError):
        return Meaning(error.kind, str(error), error.remedy, error.answer)
    answer = answer_of(error)
    if answer is None:
        fault = _found_locally(error, at)
        return fault._replace(local=True) if fault else _network_fault(error, at)
    response: Mapping[str, Any] = getattr(error, "response", {})
    operation = getattr(error, "operation_name", "GetObject")
    if operation not in ("GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"):
        # A provider of credentials asks STS or SSO on its own.
        quote = response.get("Error", {}).get("Message", "")
        return Meaning(CredentialsError, f"no credentials: {operation} was refused", _GIVE_KEYS, answer, quote)
    return _said_by_store(answer, response, at)


def _said_by_store(answer: Answer, response: Mapping[str, Any], at: Circumstances) -> Meaning:
    status, code, _ = answer
    said = response.get("Error", {})
    quote = str(said.get("Message", ""))
    if code in _BY_CODE:
        kind, summary, remedy = _BY_CODE[code]
        return Meaning(kind, summary.format(bucket=at.bucket), remedy, answer)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = said.get("Region") or headers.get("x-amz-bucket-region")
    if region and (code in _OTHER_REGION or status in _REDIRECTS):
        remedy = (
            f"Set AWS_DEFAULT_REGION={region} or S3Credentials(region_name=...), and no endpoint of another region."
        )
        return Meaning(ReadError, f"bucket {at.bucket} is in region {region}", remedy, answer)
    if status in _REDIRECTS:
        place = said.get("Endpoint") or headers.get("location") or "another endpoint"
        remedy = "Give that endpoint or its region: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION or S3Credentials(...)."
        return Meaning(ReadError, f"the store redirects to {place}", remedy, answer)
    if status == 401:
        return Meaning(CredentialsError, "the store does not accept the credentials", _CHECK_KEYS, answer, quote)
    if status == 403:
        grant = _GRANT if at.span else _GRANT_LIST
        return Meaning(AccessDeniedError, "access denied", _UNSIGNED if at.unsigned else grant, answer, quote)
    if status == 404:
        remedy = f"Check the key, where case, spaces and slashes count: aws s3 ls s3://{at.bucket}/"
        return Meaning(NotFoundError, f"there is no such object in bucket {at.bucket}", remedy, answer)
    if status in (412, 416):
        return Meaning(SourceChangedError, "the object was written to while it was being read", RELOAD, answer)
    if status in PASSING_STATUSES or code.startswith(PASSING_CODES):
        return Meaning(ReadError, "the store is failing or overloaded", _EASE, answer, quote)
    return Meaning(ReadError, "the store refused the request", _CHECK_ENDPOINT, answer, quote)


def _found_locally(error: Any, at: Circumstances) -> Meaning | None:
    """Settings and credentials: no request for the object was made."""
    from botocore import exceptions as aws

    given = getattr(error, "kwargs", {})
    if isinstance(error, aws.NoCredentialsError):
        return Meaning(CredentialsError, "no credentials were found", _GIVE_KEYS)
    if isinstance(error, aws.PartialCredentialsError):
        return Meaning(CredentialsError, f"{given['cred_var']} is missing ({given['provider']})", _GIVE_KEYS)
    if isinstance(error, aws.ProfileNotFound):
        remedy = "Check AWS_PROFILE, and the files ~/.aws/config and ~/.aws/credentials."
        return Meaning(CredentialsError, f"there is no profile {given['profile']!r}", remedy)
    if isinstance(error, aws.ConfigParseError | aws.ConfigNotFound):
        remedy = "Mend it, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE."
        return Meaning(ConfigError, f"the file {given['path']} cannot be read", remedy)
    if isinstance(error, aws.InvalidRegionError):
        remedy = "Check AWS_DEFAULT_REGION, the profile's region, or S3Credentials(region_name=...)."
        return Meaning(ConfigError, f"{given['region_name']!r} is no name of a region", remedy)
    if isinstance(error, aws.ParamValidationError):
        remedy = "Write s3://bucket/key; the name has letters, digits, dots and hyphens."
        return Meaning(ArgumentError, f"{at.bucket!r} is no name of a bucket", remedy)
    if type(error) is ValueError and str(error).startswith("Invalid endpoint: "):
        url = str(error).partition(": ")[2]
        remedy = f"Write it as http://host:port or https://host. {_CHECK_ENDPOINT}"
        return Meaning(ConfigError, f"{url!r} is no URL of an endpoint", remedy)
    if isinstance(error, FileNotFoundError):
        remedy = f"Check AWS_WEB_IDENTITY_TOKEN_FILE. {_GIVE_KEYS}"
        return Meaning(CredentialsError, f"a file of the credentials is missing: {error.filename}", remedy)
    if isinstance(error, aws.BotoCoreError) and type(error).__name__.startswith(_PROVIDERS):
        # Its text may hold what a credential process printed: that is in the cause, not here.
        provider = given.get("provider", type(error).__name__)
        return Meaning(CredentialsError, f"no credentials from {provider}", f"Log in again. {_GIVE_KEYS}")
    return None


def _network_fault(error: Any, at: Circumstances) -> Meaning | None:
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    if isinstance(error, BodyLengthError):
        return Meaning(ReadError, f"{error}, every time", _EASE)
    root = root_of(error)
    why = getattr(root, "strerror", None) or str(root) or type(root).__name__
    host = urlsplit(getattr(error, "kwargs", {}).get("endpoint_url") or "").netloc.rpartition("@")[2] or "the store"
    check = _CHECK_ENDPOINT
    if host.startswith(f"{at.bucket}."):
        check += " If the store has no host for each bucket, set RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING=0."
    if isinstance(error, aws.ConnectTimeoutError):
        return Meaning(StorageTimeoutError, f"no connection to {host} within {at.timeout:g} s", check)
    if isinstance(error, aws.ReadTimeoutError | ReadTimeoutError | TimeoutError):
        remedy = "Raise RUNAI_STREAMER_S3_TIMEOUT (seconds) or lower RUNAI_STREAMER_CONCURRENCY, if the store is slow."
        what = str(error) if isinstance(error, SlowBodyError) else f"sent nothing for {at.timeout:g} s"
        return Meaning(StorageTimeoutError, f"{host} {what}", remedy)
    if isinstance(error, aws.SSLError):
        return _tls_fault(root, host, check)
    if isinstance(error, aws.ProxyConnectionError):
        remedy = "Check HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY."
        return Meaning(StorageUnreachableError, f"no connection through the proxy: {why}", remedy)
    if isinstance(error, aws.ConnectionError):
        return Meaning(StorageUnreachableError, f"no connection to {host}: {why}", check)
    if isinstance(root, http.client.BadStatusLine) and not isinstance(root, http.client.RemoteDisconnected):
        return Meaning(StorageUnreachableError, f"{host} does not speak HTTP", f"Check the port. {check}")
    if isinstance(error, aws.HTTPClientError) and isinstance(root, ValueError) and not isinstance(root, UnicodeError):
        # http.client quotes the header that it refuses, and with it the token.
        remedy = "Look for a line break in AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN."
        return Meaning(CredentialsError, "the credentials cannot be sent", remedy, telling=True)
    if isinstance(error, aws.HTTPClientError | HTTPError | OSError | http.client.HTTPException):
        return Meaning(StorageUnreachableError, f"the connection to {host} broke: {why}", _EASE)
    if isinstance(error, aws.BotoCoreError):
        return Meaning(ReadError, f"botocore failed ({type(error).__name__}): {error}", check)
    return None


def _tls_fault(root: BaseException, host: str, check: str) -> Meaning:
    if isinstance(root, ssl.SSLCertVerificationError):
        summary = f"the certificate of {host} is not trusted: {root.verify_message}"
        remedy = f"Set AWS_CA_BUNDLE to a file with the certificate of the authority that issued it. {check}"
        return Meaning(StorageUnreachableError, summary, remedy)
    if is_no_tls(root):
        remedy = "Write the endpoint with http:// instead of https://, or with the port that speaks TLS."
        return Meaning(StorageUnreachableError, f"{host} does not speak TLS", remedy)
    if isinstance(root, FileNotFoundError) or "NO_CERTIFICATE" in str(root):
        remedy = "Set AWS_CA_BUNDLE to a file of certificates in PEM form, or unset it."
        return Meaning(ConfigError, "the file of certificates to trust cannot be read", remedy)
    return Meaning(StorageUnreachableError, f"no TLS connection to {host}: {root}", check)


def is_no_tls(root: BaseException) -> bool:
    """Whether the other side answers a TLS greeting with something else."""
    return isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")


def answer_of(error: Exception) -> Answer | None:
    """What the store answered, for an error that it made."""
    response = getattr(error, "response", None)
    return Answer.of(response) if isinstance(response, Mapping) else None


def root_of(error: BaseException) -> BaseException:
    """The exception that the others were made from."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error
