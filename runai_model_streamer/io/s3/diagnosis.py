"""Who would ask object storage, from where that is known, and whether it answers: for people to read, no secrets."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Final

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.s3.access import make_access, make_session
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.errors.meaning import Circumstances
from runai_model_streamer.io.s3.errors.provenance import without_user
from runai_model_streamer.io.s3.listing import has_keys
from runai_model_streamer.io.s3.store import S3Store

_PATIENCE: Final = 10.0
"""Seconds that a store has to answer in: longer than any that works takes, and less than people wait."""

_SHORTENED: Final = 16
"""Characters of a key's id from which its first and last four tell it from others and not what it is."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What requests to object storage would be made with."""

    origin: str | None
    """Where the credentials come from; None: there are none."""
    key_id: str | None
    """The access key's id, shortened."""
    temporary: bool
    """They come with a session token, and expire."""
    endpoint: str
    region: str
    transport: str
    """What moves the bytes: "curl 8.14.1 (/usr/lib/...)"."""


def identify(config: S3Config) -> Identity:
    """Find credentials and the way to the store, as a load would. Some kinds of credentials ask the network.

    Raises:
        MissingDependencyError: boto3, or what the transport asked for needs, is not installed.
        StreamerError: a profile, a file of settings or a provider of credentials cannot be used.
    """
    started = time.monotonic()
    try:
        return _identify(config)
    except Exception as error:
        if isinstance(error, StreamerError):
            raise
        seconds = time.monotonic() - started
        failure = translation.translated(error, Circumstances(None, "", None, 1, seconds, config.timeout))
    raise failure


def _identify(config: S3Config) -> Identity:
    access = make_access(config, None, 1)
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
    """Of botocore's credentials, what may be shown: the key's id, shortened, and whether there is a token."""
    # No variable is botocore's tuple, which shows all that is in it.
    return shorten(found.get_frozen_credentials().access_key), bool(found.get_frozen_credentials().token)


def shorten(key_id: str) -> str:
    """Enough of a key's id to tell it from others."""
    if len(key_id) < _SHORTENED:
        return f"{key_id[:2]}..."
    return f"{key_id[:4]}...{key_id[-4:]}"


def answers(config: S3Config, url: str) -> bool:
    """Whether there is the object of s3://bucket/key.safetensors, or a key under s3://bucket/prefix.

    One request, for which the store has ten seconds.

    Raises:
        NotFoundError: there is no such bucket or object.
        StreamerError: the store does not answer, or refuses.
    """
    hasty = dataclasses.replace(config, timeout=min(config.timeout, _PATIENCE), max_retries=0)
    store = S3Store(hasty, None, 1)
    try:
        if url.endswith(".safetensors"):
            store.open(url).close()
            return True
        return has_keys(store, url)
    finally:
        store.close()
