"""Makes the access to web servers: libcurl, the certificates to trust, and credentials."""

import os
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.transport import make_curl_transport
from runai_model_streamer.io.http.hedging import hedged
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.credentials import WebCredentials

_AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""The certificate files of Debian, Fedora and SUSE."""


@dataclass(frozen=True, slots=True)
class WebAccess:
    """The transport and credentials for requests to web servers, as a `remote.Access`."""

    transport: Transport
    authorization: Callable[[str], Secret | None] = field(repr=False)
    """URL -> the value of the header `Authorization`; None for an anonymous request."""
    secrets: Collection[str] = field(repr=False)
    """Texts to redact in messages."""
    setup: SetupClock
    """Times imports and connecting."""

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of a request to the host that the user named."""
        authorization = self.authorization(url)
        return {} if authorization is None else {"Authorization": authorization}

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()


def make_web_access(config: LoadConfig, setup: SetupClock) -> WebAccess:
    """Make the access to web servers.

    Raises:
        MissingDependencyError: there is no libcurl.
        ConfigError: the netrc file cannot be read.
    """
    credentials = WebCredentials(config.web)
    return WebAccess(make_transport(config, "https://"), credentials.authorization, credentials.secrets, setup)


def make_transport(config: LoadConfig, urls: str) -> Transport:
    """Make the transport.

    Args:
        config: has the timeout, and the file of certificates.
        urls: the URLs that need the transport; for the error.

    Raises:
        MissingDependencyError: there is no libcurl.
    """
    try:
        transport = make_curl_transport(config.s3.timeout, authorities(config.s3.ca_bundle))
        return hedged(transport, config.s3.second_answers) if config.s3.hedge else transport
    except libcurl.UnusableError as error:
        raise MissingDependencyError(
            f"{urls} URLs are read through libcurl, which cannot be used: {error}",
            remedy="Install it: conda install -c conda-forge libcurl, or the system's libcurl4",
            sep=". ",
        ) from error


def authorities(named: str | None) -> str:
    """Return the file of trusted certificates: the named one, else SSL_CERT_FILE, the system's, or certifi's."""
    usual = ssl.get_default_verify_paths().cafile
    found = next((path for path in (named, usual, *_AUTHORITIES) if path and os.path.exists(path)), None)
    if named or found:
        return named or found or ""
    if find_spec("certifi") is not None:
        import certifi

        return certifi.where()
    return _AUTHORITIES[0]
