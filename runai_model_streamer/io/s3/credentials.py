"""Explicit credentials for object storage."""

from dataclasses import dataclass, fields
from typing import Final

_SECRET: Final = frozenset({"secret_access_key", "session_token"})


@dataclass(slots=True, eq=False)  # they may change, so each is equal to itself alone, and can be hashed
class S3Credentials:
    """Explicit access to object storage; each field that is given wins over the environment and AWS's files.

    `repr` shows neither the secret nor the token. What is changed after a call does not matter to that call.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    """Only for temporary credentials."""
    region_name: str | None = None
    endpoint: str | None = None
    """URL of an S3-compatible store, such as http://minio:9000."""

    def __repr__(self) -> str:
        def shown(name: str) -> str:
            value = getattr(self, name)
            return "'***'" if value and name in _SECRET else repr(value)

        return f"S3Credentials({', '.join(f'{each.name}={shown(each.name)}' for each in fields(self))})"
