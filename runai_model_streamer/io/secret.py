"""Text whose `repr` hides secrets, since error reporters print the variables of a traceback's frames."""

import re
from typing import Final

_USER: Final = re.compile(r"^([a-z0-9+.-]+://)?.*@", re.IGNORECASE | re.DOTALL)
"""Everything that may be user and password before a host, even in a malformed URL."""


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
