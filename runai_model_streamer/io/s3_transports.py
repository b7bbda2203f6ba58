"""Which transport moves the bytes: libcurl's where it can be had, else boto3's."""

import logging
from typing import Any, Final

from runai_model_streamer.config import S3Config, S3Transport
from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.io import libcurl
from runai_model_streamer.io.s3_proxies import proxy_for
from runai_model_streamer.io.s3_transport_boto3 import Boto3Transport
from runai_model_streamer.io.s3_transport_curl import CurlTransport
from runai_model_streamer.io.transport import Transport

_log = logging.getLogger(__name__)

_REMEDY: Final = (
    "Install numba (pip install numba) and libcurl (conda install -c conda-forge libcurl, or the system's libcurl4), "
    "or set RUNAI_STREAMER_S3_TRANSPORT=auto."
)


def make_transport(config: S3Config, client: Any, certificates: str) -> Transport:
    """The transport that the setting asks for, beside the botocore client that signs.

    `certificates` is the file of authorities that the client trusts.

    Raises:
        MissingDependencyError: it is to be libcurl, and libcurl or numba is missing.
        ConfigError: the proxy on the way to the client's endpoint cannot be used, with either.
    """
    proxy_for(client.meta.endpoint_url)
    transport: Transport | None = None
    if config.transport is not S3Transport.BOTO3:
        try:
            transport = _make_curl_transport(config.timeout, certificates)
        except (ImportError, libcurl.UnusableError) as error:
            if config.transport is S3Transport.CURL:
                summary = f"RUNAI_STREAMER_S3_TRANSPORT=curl cannot be used: {error}. {_REMEDY}"
                raise MissingDependencyError(summary) from error
            _log.debug("object storage is not read through curl: %s", error)
    transport = transport or Boto3Transport(client, config.timeout)
    _log.debug("object storage is read through %s", transport.name)
    return transport


def _make_curl_transport(timeout: float, certificates: str) -> Transport:
    # libcurl first: it is found at once, while numba takes most of a second.
    library = libcurl.load()
    from runai_model_streamer.kernels import curl_sink

    return CurlTransport(library, curl_sink, timeout, certificates, proxy_for)
