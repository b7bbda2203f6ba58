"""The proxy on the way to a store, chosen as botocore's own connections choose theirs."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from runai_model_streamer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Proxy:
    """Its user apart from its URL, which messages quote."""

    url: str = ""
    """Scheme, host and port; "" for none."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def proxy_for(url: str) -> Proxy:
    """That of HTTP_PROXY or HTTPS_PROXY, unless NO_PROXY names the host.

    Raises:
        ConfigError: the variable holds no URL.
    """
    from botocore.utils import get_environ_proxies
    from urllib3.util import parse_url

    scheme = urlsplit(url).scheme
    named: str = get_environ_proxies(url).get(scheme, "")
    if not named:
        return Proxy()
    if "://" not in named:
        named = f"http://{named}"
    try:
        parts = urlsplit(named), parse_url(named)
    except ValueError:
        parts = None
    # Where the beginning of a password looks like a port, what is behind its / or # is taken for a path.
    if parts is None or "@" in parts[0]._replace(netloc="").geturl():
        raise ConfigError(
            f"{scheme.upper()}_PROXY holds no URL of a proxy: write it as http://user:password@host:port, with special "
            "characters of the password percent-encoded (/ is %2F, # is %23, ? is %3F, @ is %40)"
        )
    whole, bare = parts
    user, password = (unquote(text) if text else None for text in (whole.username, whole.password))
    return Proxy(bare._replace(auth=None, path=None, query=None, fragment=None).url, user, password)
