"""Finds credentials for a web server: a bearer token for its host, or its entry in the netrc file."""

import base64
import netrc
import os
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from runai_model_streamer.config import WebConfig
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret

_USUAL: Final = "~/.netrc"


class WebCredentials:
    """The credentials of the settings, by host.

    Raises:
        ConfigError: the netrc file cannot be read.
    """

    def __init__(self, config: WebConfig) -> None:
        self._tokens = dict(config.tokens)
        self._users = {} if config.netrc == "" else _users(config.netrc)

    def authorization(self, url: str) -> Secret | None:
        """Return the value of the header `Authorization` for a URL; None if nothing is known for its host."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        for name in (f"{host}:{port}", host):
            if name in self._tokens:
                return Secret(f"Bearer {self._tokens[name]}")
        return self._users.get(host)

    @property
    def secrets(self) -> Collection[str]:
        """Texts to redact in messages."""
        return frozenset((*self._tokens.values(), *(value.partition(" ")[2] for value in self._users.values())))


def _users(path: str | None) -> Mapping[str, Secret]:
    """Read the netrc file: host -> the header's value. Its `default` is left out: it would go to any host."""
    file = os.path.expanduser(path or _USUAL)
    found = _parse(file)
    if not isinstance(found, str):
        return found
    if path is None and not os.path.lexists(file):
        return {}
    raise ConfigError(found, where=file, remedy="correct it, or name another file with NETRC")


def _parse(file: str) -> dict[str, Secret] | str:
    """Return the users, or why the file cannot be read. Never raises: a traceback would show the passwords."""
    try:
        return {
            host: Secret("Basic " + base64.b64encode(f"{login}:{password}".encode()).decode())
            for host, (login, _, password) in netrc.netrc(file).hosts.items()
            if host != "default"
        }
    except netrc.NetrcParseError as error:
        # Its text may quote a password.
        return f"cannot be read (line {error.lineno})"
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError:
        return "cannot be read: it is not UTF-8"
