"""Text whose `repr` hides secrets, since error reporters print the variables of a traceback's frames."""

import re
from typing import Final, TypeVar

T = TypeVar("T")

_USER: Final = re.compile(r"^([a-z0-9+.-]+://)?.*@", re.IGNORECASE | re.DOTALL)
"""Everything that may be user and password before a host, even in a malformed URL."""


_QUERY: Final = re.compile(r"(https?:/+[^\s?\"'<>]*\?)[^\s\"'<>]+", re.IGNORECASE)
_URL: Final = re.compile(r"\s*(?!(?:s3|gs|hf|file):)([a-z][a-z0-9+.-]*):/", re.IGNORECASE)
"""A URL that may have a query. In the URLs that are left out, a `?` is a part of the name."""
_HOST: Final = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")


class Secret(str):
    """A key, token or password. `repr` hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Url(str):
    """A URL that may contain user and password. `repr` hides them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_USER.sub(r"\1***@", self))


class Link(Url):
    """A URL whose query may sign it. `repr` hides the query too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_secrets(self))


def without_queries(text: str) -> str:
    """Return the text with `***` for the queries of web URLs in it, which may sign them."""
    return _QUERY.sub(r"\1***", text)


def without_secrets(path: str) -> str:
    """Return a path or URL as messages show it: `***` for the query of a URL, and for the user of a web URL."""
    url = _URL.match(path)
    if url is None:
        return str(path)
    head, _, query = path.partition("?")
    host = head[url.end() :].lstrip("/").partition("/")[0]
    # A password may have a slash. Then what comes before it is no host and port.
    if url[1].lower() in ("http", "https") and ("@" in host or not _HOST.fullmatch(host)):
        head = _USER.sub(r"\1***@", head)
    return f"{head}?***" if query else str(head)


def veiled(path: T) -> T | Link:
    """Return a path that the caller gave, so that its `repr` shows no secret, whatever it is and however malformed."""
    return Link(path) if isinstance(path, str) and _URL.match(path) else path
