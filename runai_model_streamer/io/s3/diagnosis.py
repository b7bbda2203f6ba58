"""Finds which credentials and endpoint a load would use, and whether the store answers. Shows no secrets."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.libcurl import Library
from runai_model_streamer.io.s3.access import make_access, make_session
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.provenance import without_user
from runai_model_streamer.io.s3.listing import has_keys
from runai_model_streamer.io.s3.store import S3Store

_TIMEOUT: Final = 10.0
"""Seconds in which a store must answer: more than a working store takes, and less than people wait."""

_SHORTENED: Final = 16
"""Minimum characters of a key's id to show its first and last four. Of a shorter id, the first two are shown."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The credentials, endpoint, region and transport that a load would use."""

    origin: str | None
    """Where the credentials come from; None if there are none."""
    key_id: str | None
    """The access key's id, shortened."""
    temporary: bool
    """Whether the credentials have a session token, and so expire."""
    endpoint: str
    region: str
    transport: str
    """Name of the transport: "curl 8.14.1 (/usr/lib/...)"."""


def identify(config: S3Config, load_curl: Callable[[], Library] = libcurl.load) -> Identity:
    """Find credentials and endpoint as a load would. Some kinds of credentials need the network.

    Raises:
        MissingDependencyError: boto3, or a library that the chosen transport needs, is not installed.
        StreamerError: a profile, a settings file or a credential provider cannot be used.
    """
    started = time.monotonic()
    try:
        return _identify(config, load_curl)
    except Exception as error:
        if isinstance(error, StreamerError):
            raise
        seconds = time.monotonic() - started
        failure = translation.translated(error, RequestContext(None, "", None, 1, seconds, config.timeout))
    raise failure


def _identify(config: S3Config, load_curl: Callable[[], Library]) -> Identity:
    access = make_access(config, None, 1, load_curl=load_curl)
    try:
        session = make_session(config)
        origin = key_id = None
        temporary = False
        found: Any = None if access.unsigned else session.get_credentials()
        if access.unsigned:
            origin = "nowhere: requests are anonymous (RUNAI_STREAMER_S3_UNSIGNED=1)"
        elif found is not None:
            origin = access.provenance.credentials_origin
            key_id, temporary = _shown(found)
        client: Any = access.client
        meta = client.meta
        return Identity(
            origin, key_id, temporary, without_user(meta.endpoint_url), meta.region_name, access.transport.name
        )
    finally:
        access.close()


def _shown(found: Any) -> tuple[str, bool]:
    """Return what may be shown of botocore's credentials: the key's id, shortened, and whether there is a token."""
    # Do not put botocore's tuple into a variable: a traceback would show its secrets.
    return shorten(found.get_frozen_credentials().access_key), bool(found.get_frozen_credentials().token)


def shorten(key_id: str) -> str:
    """Shorten a key's id, but keep enough to recognise it."""
    if len(key_id) < _SHORTENED:
        return f"{key_id[:2]}..."
    return f"{key_id[:4]}...{key_id[-4:]}"


def answers(config: S3Config, url: str) -> bool:
    """Whether the object s3://bucket/key.safetensors exists, or any key under s3://bucket/prefix.

    It makes one request, and the store has ten seconds to answer.

    Raises:
        NotFoundError: there is no such bucket or object.
        StreamerError: the store does not answer, or refuses.
    """
    one_request = dataclasses.replace(config, timeout=min(config.timeout, _TIMEOUT), max_retries=0)
    store = S3Store(one_request, None, 1)
    try:
        if url.endswith(".safetensors"):
            store.open(url).close()
            return True
        return has_keys(store, url)
    finally:
        store.close()
