"""Chooses the transport: libcurl's if there is a usable libcurl, else the store's own."""

import logging
from collections.abc import Callable
from typing import Final

from runai_model_streamer.config import S3Config, S3Transport
from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.transport import make_curl_transport
from runai_model_streamer.io.http.hedging import hedged
from runai_model_streamer.io.http.proxies import proxy_for
from runai_model_streamer.io.http.transport import Transport

_log = logging.getLogger(__name__)

_REMEDY: Final = (
    "Install libcurl (conda install -c conda-forge libcurl, or the system's libcurl4), or set "
    "RUNAI_STREAMER_S3_TRANSPORT=auto."
)


def make_transport(
    config: S3Config,
    endpoint: str,
    certificates: str,
    other: Callable[[], Transport],
    load_curl: Callable[[], libcurl.Library] = libcurl.load,
) -> Transport:
    """Make the transport that the setting asks for.

    Args:
        config: which transport, and its timeout.
        endpoint: URL of the store.
        certificates: path of the CA file.
        other: makes the store's own transport, used without libcurl.
        load_curl: finds libcurl.

    Raises:
        MissingDependencyError: the setting asks for libcurl, and there is no usable one.
        ConfigError: the proxy for the endpoint cannot be used.
    """
    proxy_for(endpoint)
    transport: Transport | None = None
    if config.transport is not S3Transport.BOTO3:
        try:
            transport = make_curl_transport(config.timeout, certificates, load_curl)
        except libcurl.UnusableError as error:
            if config.transport is S3Transport.CURL:
                raise MissingDependencyError(
                    f"RUNAI_STREAMER_S3_TRANSPORT=curl cannot be used: {error}", remedy=_REMEDY, sep=". "
                ) from error
            _log.debug("object storage is not read through curl: %s", error)
    transport = transport or other()
    _log.debug("object storage is read through %s", transport.name)
    return hedged(transport, config.second_answers) if config.hedge else transport
