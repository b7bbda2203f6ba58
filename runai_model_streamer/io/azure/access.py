"""Makes the access to Azure Blob Storage: an account key, a SAS token, a token of Entra ID or nothing, and libcurl."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.azure.account import Account, account_of
from runai_model_streamer.io.azure.credentials import EntraTokens
from runai_model_streamer.io.azure.signing import SigningTransport
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.access import make_transport

_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")
_VERSION: Final = "2021-12-02"
"""Version of the service's interface. Without one it answers as in 2009."""


@dataclass(frozen=True, slots=True)
class AzureAccess:
    """The transport and credentials for requests to the service."""

    transport: Transport
    """It signs requests with the account's key, if there is one."""
    setup: SetupClock
    account: Account | None
    """The account of the settings."""
    tokens: EntraTokens | None = field(repr=False)
    """None for anonymous requests."""

    @property
    def secrets(self) -> Collection[str]:
        """Texts to redact in messages."""
        held = self.tokens.held if self.tokens is not None else ""
        return {*(self.account.secrets if self.account is not None else ()), *([held] if held else [])}

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of a request to the service itself.

        Raises:
            ConfigError: as `EntraTokens.token`; or anybody on the way could read the token.
        """
        about = {"x-ms-version": _VERSION}
        token = "" if self.tokens is None or self.has_secret(url) else self.tokens.token()
        if not token:
            return about
        parts = urlsplit(url.partition("?")[0])
        if parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
            raise ConfigError(
                "the token of a login is not sent over http://",
                where=f"{parts.scheme}://{parts.netloc}",
                remedy="write https:// in AZURE_STORAGE_ENDPOINT",
            )
        return {**about, "Authorization": Secret(f"Bearer {token}")}

    def has_secret(self, url: str) -> bool:
        """Return whether the account's key or SAS token is for this URL."""
        account = self.account
        return account is not None and bool(account.key or account.sas) and account.owns(url)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()
        if self.tokens is not None:
            self.tokens.close()


def make_azure_access(config: LoadConfig, setup: SetupClock) -> AzureAccess:
    """Make the access.

    Raises:
        MissingDependencyError: there is no libcurl.
        ConfigError: as `account_of`.
    """
    account = account_of(config.azure)
    transport = make_transport(config, "az://")
    if account is not None and account.key:
        transport = SigningTransport(transport, account)
    return AzureAccess(transport, setup, account, None if config.azure.anonymous else EntraTokens())
