"""Text whose `repr` keeps a secret: error reporters print the variables of a traceback's frames."""

import re
from typing import Final

_USER: Final = re.compile(r"^([a-z0-9+.-]+://)?.*@", re.IGNORECASE | re.DOTALL)
"""All that may be a user and a password before a host, also where a URL is malformed."""


class Secret(str):
    """A key, token or password. `repr` shows nothing of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Url(str):
    """A URL that may have a user and a password in it. `repr` shows neither."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_USER.sub(r"\1***@", self))
