"""Explains failures of Google Cloud Storage to users: credentials, permissions, buckets and objects."""

import re
from typing import Final

from runai_model_streamer.errors import (
    AccessDeniedError,
    ConfigError,
    CredentialsError,
    NotFoundError,
    StorageUnreachableError,
)
from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.frames import release_frames
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.web.refusal import RefusedError

_GIVE: Final = (
    "Set RUNAI_STREAMER_GCS_CREDENTIAL_FILE or GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or run `gcloud "
    "auth application-default login`. A public bucket needs none: set RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS=1."
)
_CHECK_PROVIDER: Final = "Check the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
_GRANT: Final = (
    "Grant this account roles/storage.objectViewer on the bucket (storage.objects.get, and storage.objects.list for "
    "folders)."
)
_NOT_PUBLIC: Final = "Unset RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS and give credentials."
_FILE: Final = re.compile(r"(the )?file |failed to load", re.IGNORECASE)
"""google-auth's messages for a file that is missing, or does not hold credentials."""
_NO_BUCKET: Final = (b"NoSuchBucket", b"bucket does not exist")


def of_google(error: Exception) -> bool:
    """Return whether google-auth raised this."""
    return any(kind.__module__.startswith("google.auth") for kind in type(error).__mro__)


def judge_google(error: Exception) -> Judgement:
    """Say whether a request that got no credentials may be retried."""
    release_frames(error)
    name = type(error).__name__
    again = name == "TransportError" or bool(getattr(error, "retryable", False))
    return Judgement(f"no credentials ({name})", again=again)


def explain_google(error: Exception) -> Explanation:
    """Explain an error of google-auth. Its text may quote what a provider sent, so it is not the cause of ours."""
    name = type(error).__name__
    if name == "TransportError":
        unreachable = "no connection to the provider of credentials"
        return Explanation(StorageUnreachableError, unreachable, _CHECK_PROVIDER, hide_cause=True)
    if name == "MalformedError" or (name == "DefaultCredentialsError" and _names_a_file(error)):
        return Explanation(ConfigError, "the file of credentials cannot be used", _GIVE, local=True, hide_cause=True)
    if name == "DefaultCredentialsError":
        return Explanation(CredentialsError, "no credentials were found", _GIVE, local=True, hide_cause=True)
    none = f"the provider of credentials gives none ({name})"
    return Explanation(CredentialsError, none, f"Log in again, or check the account. {_GIVE}", hide_cause=True)


def _names_a_file(error: Exception) -> bool:
    return _FILE.match(str(error.args[0] if error.args else "")) is not None


def explain_gcs(error: RefusedError, location: Location) -> Explanation | None:
    """Explain a refusal of the service; None for one that means the same on every web server."""
    answer: Answer = error.answer
    bucket, key = location
    match error.status:
        case 401 | 403 if not error.authorized:
            private = f"bucket {bucket} does not serve anonymous requests"
            return Explanation(CredentialsError, private, _NOT_PUBLIC, answer)
        case 401:
            return Explanation(CredentialsError, "the service does not accept the credentials", _GIVE, answer)
        case 403:
            return Explanation(AccessDeniedError, f"access denied to bucket {bucket}", _GRANT, answer)
        case 404 if any(words in error.text for words in _NO_BUCKET):
            return Explanation(NotFoundError, f"there is no bucket {bucket}", "Check its name.", answer)
        case 404:
            remedy = (
                f"Check the key; case, spaces and slashes count: gcloud storage ls gs://{bucket}/ (if it is a folder, "
                "list_safetensors lists its files)."
            )
            return Explanation(NotFoundError, f"there is no object {key!r} in bucket {bucket}", remedy, answer)
        case _:
            return None
