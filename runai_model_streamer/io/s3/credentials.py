"""Credentials for object storage: explicit ones, and botocore's search for others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.io.setup_time import SetupClock

_HIDDEN: Final[Mapping[str, type[str]]] = {"secret_access_key": Secret, "session_token": Secret, "endpoint": Url}


@dataclass(slots=True, eq=False)  # they may change, so each is equal to itself alone, and can be hashed
class S3Credentials:
    """Explicit access to object storage. Each field that is given wins over the environment and AWS's files.

    The `repr` of the object and of its fields hides the secret, the token, and a password in the endpoint's URL. A call
    takes a copy: later changes do not affect it.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    """For temporary credentials only."""
    region_name: str | None = None
    endpoint: str | None = None
    """URL of an S3-compatible store, such as http://minio:9000."""

    def __setattr__(self, name: str, value: object) -> None:
        hidden = _HIDDEN.get(name)
        object.__setattr__(self, name, hidden(value) if hidden and isinstance(value, str) else value)


class CredentialsSearch:
    """botocore's search for credentials, timed, and made once: a metadata service that is not there costs seconds.

    Args:
        session: botocore's, which searches with its settings.
        region: where a provider asks for a role's credentials.
        setup: times the search.
    """

    def __init__(self, session: Any, region: str, setup: SetupClock) -> None:
        self._session = session
        self._region = region
        self._setup = setup
        self._found: list[Any] = []

    def load_credentials(self) -> Any:
        """Return botocore's credentials; None where there are none. botocore calls this.

        Raises:
            Exception: botocore's own, for a profile or file that it cannot use.
        """
        from botocore.credentials import create_credential_resolver

        if not self._found:
            with self._setup.during("credentials"):
                resolver = create_credential_resolver(self._session, region_name=self._region)
                self._found.append(resolver.load_credentials())
        return self._found[0]
