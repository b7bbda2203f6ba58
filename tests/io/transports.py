"""Both ways in which the bytes of objects move, so that what is true of one is shown of the other.

A test that uses the fixture `transport` (see conftest.py) runs once with each, and makes its settings here.
"""

from typing import Any

from runai_model_streamer.config import S3Config, S3Transport, StreamerConfig
from runai_model_streamer.io import libcurl

EACH = (S3Transport.CURL, S3Transport.BOTO3)


def missing(transport: S3Transport) -> str:
    """Why there is no such transport here; "" if there is."""
    if transport is S3Transport.CURL:
        try:
            import numba  # noqa: F401

            libcurl.load()
        except (ImportError, libcurl.UnusableError) as error:
            return f"no transport through libcurl here: {error}"
    return ""


def s3_config(*values: Any, **named: Any) -> S3Config:
    """Settings as given, with the transport that RUNAI_STREAMER_S3_TRANSPORT names."""
    return S3Config(*values, **{"transport": StreamerConfig.from_environment().s3.transport} | named)
