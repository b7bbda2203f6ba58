"""Finds the storage account that the settings name: its endpoint, and its key or SAS token."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from runai_model_streamer.config import AzureConfig
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.azure.location import BlobLocation
from runai_model_streamer.io.secret import Secret

_SUFFIX: Final = "blob.core.windows.net"
_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
_EMULATOR: Final = {
    "AccountName": "devstoreaccount1",
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
"""What `UseDevelopmentStorage=true` stands for: every emulator has this account, with this key."""


@dataclass(frozen=True, slots=True)
class Account:
    """A storage account."""

    name: str
    endpoint: str
    """URL of its blobs, without a final slash."""
    key: Secret = field(default=Secret(""), repr=False)
    """In base64; "" if there is none, or a SAS token."""
    sas: Secret = field(default=Secret(""), repr=False)
    """A query, without its question mark; "" if there is none."""

    @property
    def secrets(self) -> frozenset[Secret]:
        """Texts to redact in messages."""
        signatures = (Secret(value) for name, value in parse_qsl(self.sas) if name == "sig")
        return frozenset(filter(None, (self.key, self.sas, *signatures)))

    def owns(self, url: str) -> bool:
        """Return whether a request to this URL is one to the account."""
        return url.startswith(f"{self.endpoint}/")


def account_of(config: AzureConfig) -> Account | None:
    """Return the account that the settings name; None if they name none. A connection string wins over all others.

    Raises:
        ConfigError: the connection string or the key cannot be used.
    """
    if config.connection_string:
        return _of_string(config.connection_string)
    endpoint = (config.endpoint or "").rstrip("/")
    name = config.account or _name_in(endpoint)
    if not name:
        return None
    endpoint = endpoint or f"https://{name}.{config.endpoint_suffix or _SUFFIX}"
    return _made(name, endpoint, config.key or Secret(""), config.sas or Secret(""), "AZURE_STORAGE_ACCOUNT_KEY")


def account_at(location: BlobLocation, named: Account | None, url: str) -> Account:
    """Return the account that a URL is in.

    Args:
        location: the URL, parsed.
        named: the account of the settings. Its key and SAS token are for no other.
        url: for the error.

    Raises:
        ConfigError: neither the URL nor a setting names one.
    """
    if location.endpoint:
        same = named is not None and named.endpoint.lower() == location.endpoint
        return named if same and named is not None else Account(_name_in(location.endpoint), location.endpoint)
    if named is None:
        raise ConfigError(
            "no storage account is named",
            where=url,
            remedy=f"set AZURE_STORAGE_ACCOUNT_NAME or {_STRING}, or write "
            f"https://ACCOUNT.{_SUFFIX}/{location.container}/{location.key}",
        )
    return named


def _of_string(text: Secret) -> Account:
    # Secrets, since a traceback shows the variables of this frame.
    parts = {
        name.strip(): Secret(value.strip()) for name, _, value in (part.partition("=") for part in text.split(";"))
    }
    if parts.get("UseDevelopmentStorage", "").lower() == "true":
        parts |= {name: Secret(value) for name, value in _EMULATOR.items()}
    name, endpoint = str(parts.get("AccountName", "")), str(parts.get("BlobEndpoint", "")).rstrip("/")
    if not endpoint and name:
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        endpoint = f"{parts.get('DefaultEndpointsProtocol', 'https')}://{name}.blob.{suffix}"
    name = name or _name_in(endpoint)
    if not name or not endpoint.startswith(("https://", "http://")):
        raise ConfigError(
            f"{_STRING} cannot be used: it names no account",
            remedy="copy it from the account's access keys: AccountName=...;AccountKey=...",
        )
    none = Secret("")
    return _made(name, endpoint, parts.get("AccountKey", none), parts.get("SharedAccessSignature", none), _STRING)


def _made(name: str, endpoint: str, key: Secret, sas: Secret, variable: str) -> Account:
    if not _is_base64(key):
        raise ConfigError(
            f"{variable} cannot be used: the key is not in base64",
            remedy="copy it again from the account's access keys",
        )
    # Both would be one credential too many, and the key can do all that the token can.
    return Account(name, endpoint, key, Secret("" if key else sas.lstrip("?")))


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _name_in(endpoint: str) -> str:
    """Return an endpoint's account: the first part of its host, or of the path where the host is not the account's."""
    parts = urlsplit(endpoint)
    path = parts.path.strip("/")
    return path.partition("/")[0] if path else (parts.hostname or "").partition(".")[0]
