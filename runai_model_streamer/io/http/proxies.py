"""Chooses the proxy for a store, by the rules of Python's standard library."""

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret, Url


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. Messages quote its URL, so user and password are kept apart from it."""

    url: str = ""
    """Scheme, host and port; "" for no proxy."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def proxy_for(url: str) -> Proxy:
    """Return the proxy of HTTP_PROXY or HTTPS_PROXY, unless NO_PROXY names the host.

    Raises:
        ConfigError: the variable is not a URL.
    """
    scheme = urlsplit(url).scheme
    named = Url("" if proxy_bypass(urlsplit(url).netloc) else getproxies().get(scheme, ""))
    if not named:
        return Proxy()
    proxy = _parse(named if "://" in named else Url(f"http://{named}"))
    if proxy is None:
        raise ConfigError(
            f"{scheme.upper()}_PROXY is not the URL of a proxy",
            remedy="write it as http://user:password@host:port, with special characters of the password "
            "percent-encoded (/ is %2F, # is %23, ? is %3F, @ is %40)",
            sep=": ",
        )
    return proxy


class Proxies:
    """The proxies of a load, each looked up once for a host: that reads all variables of the environment. Thread safe.

    Args:
        look: returns the proxy for a URL.
    """

    def __init__(self, look: Callable[[str], Proxy] = proxy_for) -> None:
        self._look = look
        self._known: dict[str, Proxy] = {}

    def __call__(self, url: str) -> Proxy:
        """Return the proxy for a URL.

        Raises:
            ConfigError: the variable is not a URL.
        """
        host = "/".join(url.split("/", 3)[:3])
        proxy = self._known.get(host)
        if proxy is None:
            proxy = self._known[host] = self._look(url)
        return proxy


def _parse(named: Url) -> Proxy | None:
    """Return None if this is not a URL. Never raises: a traceback would show the parts, and so the password."""
    try:
        parts = urlsplit(named)
        _ = parts.port
    except ValueError:
        return None
    # If a password begins like a port, urlsplit takes what follows its / or # for a path.
    if not parts.hostname or "@" in parts._replace(netloc="").geturl():
        return None
    user, password = (Secret(unquote(text)) if text else None for text in (parts.username, parts.password))
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", user, password)
