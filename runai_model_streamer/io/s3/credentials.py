"""Explicit credentials for object storage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from runai_model_streamer.io.secret import Secret, Url

_HIDDEN: Final[Mapping[str, type[str]]] = {"secret_access_key": Secret, "session_token": Secret, "endpoint": Url}


@dataclass(slots=True, eq=False)  # they may change, so each is equal to itself alone, and can be hashed
class S3Credentials:
    """Explicit access to object storage; each field that is given wins over the environment and AWS's files.

    `repr` shows neither the secret nor the token, nor a password in the endpoint's URL; nor do the fields' own. What is
    changed after a call does not matter to that call.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    """Only for temporary credentials."""
    region_name: str | None = None
    endpoint: str | None = None
    """URL of an S3-compatible store, such as http://minio:9000."""

    def __setattr__(self, name: str, value: object) -> None:
        hidden = _HIDDEN.get(name)
        object.__setattr__(self, name, hidden(value) if hidden and isinstance(value, str) else value)
