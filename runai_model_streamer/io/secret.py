"""Text whose `repr` hides secrets, since error reporters print the variables of a traceback's frames."""

import re
from typing import Final

_USER: Final = re.compile(r"^([a-z0-9+.-]+://)?.*@", re.IGNORECASE | re.DOTALL)
"""Everything that may be user and password before a host, even in a malformed URL."""


_WEB: Final = ("https://", "http://")
_QUERY: Final = re.compile(r"(https?://[^\s?\"'<>]*\?)[^\s\"'<>]+")


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
        return repr(Url(without_queries(self)))


def without_queries(text: str) -> str:
    """Return the text with `***` for the queries of web URLs in it, which may sign them."""
    return _QUERY.sub(r"\1***", text)


def without_secrets(path: str) -> str:
    """Return a path or URL as messages show it: `***` for the user and the query of a web URL."""
    if not path.startswith(_WEB):
        return path
    return without_queries(_USER.sub(r"\1***@", path) if "@" in path.partition("://")[2].partition("/")[0] else path)
