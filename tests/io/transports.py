"""Both ways in which the bytes of objects move, so that what is true of one is shown of the other; and stores.

A test that uses the fixture `transport` (see conftest.py) runs once with each, and makes its settings here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from runai_model_streamer.config import LoadConfig, S3Config, S3Transport
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.s3.access import MakeAccess, make_access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.store import S3Store
from tests.servers import FaultServer, MotoServer

KEYS: Final = S3Credentials("AKIDEXPLICIT", "explicit-secret")
URL: Final = "s3://bucket/model.safetensors"
"""What the fixture `server` holds."""
TIMEOUT: Final = 30.0
"""Seconds; far more than any of the tests may take."""

EACH = (S3Transport.CURL, S3Transport.BOTO3)


def missing(transport: S3Transport) -> str:
    """Why there is no such transport here; "" if there is."""
    if transport is S3Transport.CURL:
        try:
            libcurl.load()
        except libcurl.UnusableError as error:
            return f"no transport through libcurl here: {error}"
    return ""


def s3_config(*values: Any, **named: Any) -> S3Config:
    """Settings as given, with the transport and the certificates that the environment names."""
    environment = LoadConfig.from_environment().s3
    return S3Config(*values, **{"transport": environment.transport, "ca_bundle": environment.ca_bundle} | named)


@contextlib.contextmanager
def store_of(
    server: FaultServer | MotoServer | str | None,
    credentials: S3Credentials | None = KEYS,
    *,
    retries: int = 2,
    connections: int = 4,
    make: MakeAccess = make_access,
    **settings: Any,
) -> Iterator[S3Store]:
    """A store at a server, at an endpoint, or where the environment says (None), whose access `make` makes."""
    endpoint = server if isinstance(server, str) or server is None else server.endpoint
    settings = {"virtual_addressing": False, "timeout": TIMEOUT} | settings
    config = s3_config(endpoint, max_retries=retries, **settings)
    with contextlib.closing(S3Store(config, credentials, connections, make=make)) as store:
        yield store
