"""Finds tokens of Microsoft Entra ID with azure-identity."""

import logging
import re
import threading
import time
from typing import Any, Final

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret

_log = logging.getLogger(__name__)

_SCOPE: Final = "https://storage.azure.com/.default"
_AHEAD: Final = 300.0
"""Seconds before its end at which a token is replaced."""
_CODE: Final = re.compile(r"AADSTS\d+")


class EntraTokens:
    """Tokens of `DefaultAzureCredential`, which are replaced before they run out. Thread-safe.

    If there are none, requests are anonymous: the container may be public.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credential: Any = None
        self._token = Secret("")
        self._expires = 0.0
        self._asked = False
        self.installed = True
        """azure-identity is."""
        self.why = ""
        """Why there is no token; "" if there is one, or nobody has asked."""

    @property
    def held(self) -> Secret:
        """The current token; "" for none."""
        return self._token

    def token(self) -> Secret:
        """Return a token that is valid for some minutes at least; "" if there is none. It may ask a provider.

        Raises:
            ConfigError: a variable of azure-identity cannot be used.
        """
        with self._lock:
            if not self._asked or (self._token and time.time() > self._expires - _AHEAD):
                self._asked = True
                self._replace()
            return self._token

    def _replace(self) -> None:
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError:
            self.installed = False
            return
        try:
            self._credential = self._credential or DefaultAzureCredential()
        except ValueError as error:
            raise ConfigError(f"azure-identity cannot be used: {error}", remedy="correct this variable") from None
        try:
            self._token, self._expires = _parse(self._credential.get_token(_SCOPE))
            self.why = ""
        except Exception as error:  # what a provider raises is up to it
            code = _CODE.search(str(error))
            self.why = f"azure-identity finds no credentials ({code[0] if code else type(error).__name__})"
            _log.debug("Azure: %s", self.why)
            if time.time() >= self._expires:
                self._token = Secret("")

    def close(self) -> None:
        """Close the connections to providers. Idempotent."""
        with self._lock:
            credential, self._credential = self._credential, None
        if credential is not None:
            credential.close()


def _parse(found: Any) -> tuple[Secret, float]:
    """Return the token, and its end in seconds since 1970."""
    return Secret(found.token), float(found.expires_on)
