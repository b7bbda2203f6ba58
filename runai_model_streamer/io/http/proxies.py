"""The proxy on the way to a store, chosen as botocore's own connections choose theirs."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret, Url


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

    scheme = urlsplit(url).scheme
    named = Url(get_environ_proxies(url).get(scheme, ""))
    if not named:
        return Proxy()
    proxy = _parse(named if "://" in named else Url(f"http://{named}"))
    if proxy is None:
        raise ConfigError(
            f"{scheme.upper()}_PROXY holds no URL of a proxy",
            remedy="write it as http://user:password@host:port, with special characters of the password "
            "percent-encoded (/ is %2F, # is %23, ? is %3F, @ is %40)",
            sep=": ",
        )
    return proxy


def _parse(named: Url) -> Proxy | None:
    """None for what is no URL. Raises nothing: the parts would be shown with the traceback."""
    from urllib3.util import parse_url

    try:
        whole, bare = urlsplit(named), parse_url(named)
    except ValueError:
        return None
    # Where the beginning of a password looks like a port, what is behind its / or # is taken for a path.
    if "@" in whole._replace(netloc="").geturl():
        return None
    user, password = (Secret(unquote(text)) if text else None for text in (whole.username, whole.password))
    return Proxy(bare._replace(auth=None, path=None, query=None, fragment=None).url, user, password)
