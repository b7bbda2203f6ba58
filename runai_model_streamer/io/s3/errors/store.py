"""Explains failures of an object store: which of our errors it is, what happened, what to do."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentError,
    ConfigError,
    CredentialsError,
    NotFoundError,
    ReadError,
    SourceChangedError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.http.answers import RELOAD, Answer, AnswerError
from runai_model_streamer.io.http.failures import RETRIED_STATUSES
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.network import CHECK_PROXY, EASE
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.intermediaries import explain_intermediary
from runai_model_streamer.io.s3.errors.network import explain_network
from runai_model_streamer.io.secret import Url

_GIVE_KEYS: Final = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary credentials), choose a "
    "profile of ~/.aws with AWS_PROFILE, or pass s3_credentials=S3Credentials(...). A public bucket needs none: "
    "set RUNAI_STREAMER_S3_UNSIGNED=1."
)
_CHECK_KEYS: Final = (
    "Check that they are this store's: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN belong together "
    "(or all of a profile, or all of S3Credentials)."
)
_CHECK_ID: Final = "Check that the id is one of this store, and not swapped with the secret access key."
_CHECK_SECRET: Final = (
    "Copy AWS_SECRET_ACCESS_KEY (or the profile's, or that of S3Credentials) again, with the AWS_ACCESS_KEY_ID that it "
    "was issued with. A proxy that rewrites requests breaks signatures, too."
)
_CHECK_TOKEN: Final = (
    "Temporary credentials need the AWS_SESSION_TOKEN that was issued with them. Permanent ones have none: unset it."
)
_RENEW_KEYS: Final = (
    "Get new ones (aws sso login, or from their issuer), and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
    "AWS_SESSION_TOKEN together."
)
_ENDPOINTS: Final = "AWS_ENDPOINT_URL, RUNAI_STREAMER_S3_ENDPOINT or S3Credentials(endpoint=...)"

_INVALID_URL: Final = re.compile(
    r"(?:Invalid endpoint: |Custom endpoint `)(.*?)(?:` was not a valid URI)?\Z", re.DOTALL
)
"""botocore's messages for an endpoint that it cannot use."""

_CHECK_SETTINGS: Final = "Check the variables that begin with AWS_, AWS's files, and what credential_process prints."

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
SLOW_DOWN: Final = ("RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling")
RETRIED_CODES: Final = ("InternalError", *SLOW_DOWN)

_PROVIDERS: Final = (
    "CredentialRetrieval",
    "Login",
    "Metadata",
    "RefreshWithMFA",
    "SSO",
    "TokenRetrieval",
    "UnauthorizedSSO",
    "UnknownCredential",
)
"""Prefixes of the class names of errors of botocore's credential providers. Older versions lack some of them."""

_BY_CODE: Final[Mapping[str, tuple[type[StreamerError], str, str]]] = {
    **dict.fromkeys(EXPIRED, (CredentialsError, "the credentials have expired", _RENEW_KEYS)),
    "InvalidAccessKeyId": (CredentialsError, "the store does not know the access key id", _CHECK_ID),
    "InvalidClientTokenId": (CredentialsError, "the store does not accept the credentials", _CHECK_KEYS),
    "InvalidObjectState": (ReadError, "the object is archived", "Restore it from its storage class (Glacier) first."),
    "InvalidToken": (CredentialsError, "the store does not accept the session token", _CHECK_TOKEN),
    "NoSuchBucket": (
        NotFoundError,
        "there is no bucket {bucket}",
        "Check its name, and whether it is a bucket of this store.",
    ),
    "RequestTimeTooSkewed": (CredentialsError, "this machine's clock and the store's differ", "Set the clock (NTP)."),
    "SignatureDoesNotMatch": (
        CredentialsError,
        "the secret access key does not belong to the access key id",
        _CHECK_SECRET,
    ),
}
"""Error codes that mean the same with any status -> our error, what happened, what to do."""


def explain(error: Exception, at: RequestContext) -> Explanation | None:
    """Explain an error of the store, botocore or the network; None for any other."""
    if isinstance(error, AnswerError):
        return Explanation(error.kind, str(error), error.remedy, error.answer)
    answer = answer_of(error)
    if answer is None:
        fault = _explain_local(error, at)
        return fault._replace(local=True) if fault else explain_network(error, at)
    response: Mapping[str, Any] = getattr(error, "response", {})
    operation = getattr(error, "operation_name", "GetObject")
    if operation not in ("GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"):
        # A credential provider makes requests of its own, to STS or SSO.
        quote = str(response.get("Error", {}).get("Message") or "")
        return Explanation(CredentialsError, f"no credentials: {operation} was refused", _GIVE_KEYS, answer, quote)
    return _explain_refusal(answer, response, operation, at)


def _explain_refusal(answer: Answer, response: Mapping[str, Any], operation: str, at: RequestContext) -> Explanation:
    status, code, _ = answer
    said = response.get("Error", {})
    quote = str(said.get("Message") or "")
    if code in _BY_CODE:
        kind, summary, remedy = _BY_CODE[code]
        if kind is CredentialsError:
            remedy = _of_credentials(remedy, at)
        if code in ("InvalidAccessKeyId", "NoSuchBucket"):
            # They most often belong to another store; without an endpoint the store is AWS.
            remedy = f"{remedy} {at.provenance.endpoint_sentence()}".rstrip()
        return Explanation(kind, summary.format(bucket=at.bucket), remedy, answer)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = said.get("Region") or headers.get("x-amz-bucket-region")
    if region and (code in _OTHER_REGION or status in _REDIRECTS):
        remedy = (
            f"Set AWS_DEFAULT_REGION={region} or S3Credentials(region_name=...), and no endpoint of another region."
        )
        return Explanation(ReadError, f"bucket {at.bucket} is in region {region}", remedy, answer)
    if other := explain_intermediary(answer, headers, operation, at):
        return other
    if status in _REDIRECTS:
        place = said.get("Endpoint") or headers.get("location") or "another endpoint"
        remedy = "Give that endpoint or its region: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION or S3Credentials(...)."
        return Explanation(ReadError, f"the store redirects to {place}", remedy, answer)
    if status == 401:
        remedy = _of_credentials(_CHECK_KEYS, at)
        return Explanation(CredentialsError, "the store does not accept the credentials", remedy, answer, quote)
    if status == 403:
        grant = _of_credentials(_GRANT if at.span else _GRANT_LIST, at)
        return Explanation(AccessDeniedError, "access denied", _UNSIGNED if at.unsigned else grant, answer, quote)
    if status == 404:
        return Explanation(NotFoundError, f"there is no such object in bucket {at.bucket}", _check_key(at), answer)
    if status == 407:
        refused = "no connection through the proxy: it does not accept the user and password"
        return Explanation(StorageUnreachableError, refused, CHECK_PROXY, answer)
    if status in (412, 416):
        return Explanation(SourceChangedError, "the object was written to while it was being read", RELOAD, answer)
    if status in RETRIED_STATUSES or code.startswith(RETRIED_CODES):
        return Explanation(ReadError, "the store is failing or overloaded", EASE, answer, quote)
    remedy = f"{at.provenance.endpoint_sentence()} Check that it is a store's: host, port and path.".lstrip()
    return Explanation(ReadError, "the store refused the request", remedy, answer, quote)


def _of_credentials(remedy: str, at: RequestContext) -> str:
    """Put before a remedy where the credentials come from, and whether the secret key has white space around it."""
    padded = "The secret access key has white space around it: remove it." if at.provenance.padded else ""
    return " ".join(filter(None, (at.provenance.credentials_sentence(), padded, remedy)))


def _check_key(at: RequestContext) -> str:
    origin = at.provenance
    if origin.has_path:
        return f"{origin.endpoint_sentence()} Its path precedes every bucket: if it names the bucket, leave it out."
    return (
        f"Check the key; case, spaces and slashes count: {origin.list_command(at.bucket)} (if it is a folder, "
        "list_safetensors lists its files)."
    )


def _raised_in(error: Exception) -> list[str]:
    """Return the modules of the traceback; the last one raised the error."""
    trace = error.__traceback__
    modules = []
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__")))
        trace = trace.tb_next
    return modules


def _explain_local(error: Any, at: RequestContext) -> Explanation | None:
    """Explain an error of settings or credentials, before any request for the object."""
    from botocore import exceptions as aws

    given = getattr(error, "kwargs", {})
    if isinstance(error, aws.NoCredentialsError):
        return Explanation(CredentialsError, "no credentials were found", _GIVE_KEYS)
    if isinstance(error, aws.PartialCredentialsError):
        return Explanation(CredentialsError, f"{given['cred_var']} is missing ({given['provider']})", _GIVE_KEYS)
    if isinstance(error, aws.ProfileNotFound):
        remedy = "Check AWS_PROFILE, and the files ~/.aws/config and ~/.aws/credentials."
        return Explanation(CredentialsError, f"there is no profile {given['profile']!r}", remedy)
    if isinstance(error, aws.ConfigParseError | aws.ConfigNotFound):
        remedy = "Correct it, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE."
        return Explanation(ConfigError, f"the file {given['path']} cannot be read", remedy)
    if isinstance(error, aws.InvalidRegionError):
        remedy = "Check AWS_DEFAULT_REGION, AWS_REGION, the profile's region, or S3Credentials(region_name=...)."
        return Explanation(ConfigError, f"{given['region_name']!r} is not a region", remedy)
    # botocore checks the parameters of requests to STS too: those have no bucket.
    if isinstance(error, aws.ParamValidationError) and "ucket" in str(error):
        remedy = "Write s3://bucket/key; a bucket's name has letters, digits, dots and hyphens."
        return Explanation(ArgumentError, f"{at.bucket!r} is not a bucket name", remedy)
    if (url := _INVALID_URL.match(str(error))) and isinstance(error, ValueError | aws.EndpointResolutionError):
        remedy = f"Write it as http://host:port or https://host, in {_ENDPOINTS}."
        if "_" in (urlsplit(url[1]).hostname or ""):
            remedy = (
                "A host name may not have an underscore (_): give the host another name, such as an alias in its "
                f"network, or write its address, in {_ENDPOINTS}."
            )
        # `Url` quotes it without what may be a password.
        return Explanation(
            ConfigError, f"{Url(url[1])!r} is not the URL of an endpoint", remedy, hide_cause="@" in url[1]
        )
    if isinstance(error, OSError) and error.filename:
        remedy = f"Check AWS_WEB_IDENTITY_TOKEN_FILE, and credential_process of the profile. {_GIVE_KEYS}"
        unusable = f"a file of the credentials cannot be used: {error.filename}: {error.strerror}"
        return Explanation(CredentialsError, unusable, remedy)
    has_client = bool(at.provenance.endpoint)
    parsed = isinstance(error, ValueError) and not has_client
    if parsed or isinstance(error, aws.InvalidConfigError | aws.ParamValidationError):
        # A parser's error that botocore did not catch: no client could be made.
        return Explanation(ConfigError, f"AWS's settings cannot be used: {error}", _CHECK_SETTINGS)
    modules = _raised_in(error)
    of_credentials = "botocore.credentials" in modules
    if "botocore.parsers" in modules and not of_credentials and not isinstance(error, aws.BotoCoreError):
        # botocore expects an answer of the right shape. An answer with credentials is never quoted.
        strange = f"the answer cannot be read: {type(error).__name__}: {error}"
        return Explanation(
            ReadError, strange, f"{at.provenance.endpoint_sentence()} Check that it is a store's.".lstrip()
        )
    shapeless = isinstance(error, AttributeError | LookupError | TypeError)
    if shapeless and modules and modules[-1].startswith("botocore."):
        # botocore expects settings of the right shape.
        says = f"{type(error).__name__}: {error}"
        if not has_client:
            remedy = f"{_CHECK_SETTINGS} Below a line like `s3 =`, settings are indented."
            return Explanation(ConfigError, f"AWS's settings cannot be used: {says}", remedy)
        if of_credentials:
            remedy = "Check which host AWS_ENDPOINT_URL_STS or AWS_CONTAINER_CREDENTIALS_FULL_URI names."
            given_none = f"the credential provider gave none that can be used: {says}"
            return Explanation(CredentialsError, given_none, f"{remedy} {_GIVE_KEYS}")
    if isinstance(error, RuntimeError) and "still expired" in str(error):
        remedy = f"Set this machine's clock (NTP). {_RENEW_KEYS}"
        return Explanation(
            CredentialsError, "the credentials have expired, and so have the ones that replaced them", remedy
        )
    if isinstance(error, aws.BotoCoreError) and type(error).__name__.startswith(_PROVIDERS):
        # Do not quote its text: it may hold what a credential process printed. The cause has it.
        provider = given.get("provider", type(error).__name__)
        return Explanation(CredentialsError, f"no credentials from {provider}", f"Log in again. {_GIVE_KEYS}")
    return None


def answer_of(error: Exception) -> Answer | None:
    """Return what the store answered; None if the error is not the store's answer."""
    response = getattr(error, "response", None)
    return answer_in(response) if isinstance(response, Mapping) else None


def answer_in(response: Mapping[str, Any]) -> Answer:
    """Return status, code and request id of a response that botocore parsed, good or bad."""
    about = response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode")
    code = str(response.get("Error", {}).get("Code") or "")
    # Without a body, botocore uses the status as the code.
    request_id = about.get("RequestId") or about.get("HTTPHeaders", {}).get("x-amz-request-id", "")
    return Answer(status, "" if code == str(status) else code, str(request_id))
