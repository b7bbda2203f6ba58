"""Makes the access to Google Cloud Storage: google-auth's credentials, and libcurl."""

import threading
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast

from runai_model_streamer.config import GcsConfig, LoadConfig
from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.access import make_transport

USUAL_ENDPOINT: Final = "https://storage.googleapis.com"
_PROJECTS: Final = "https://cloudresourcemanager.googleapis.com/"
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_only"


class _Providers:
    """google-auth's way to ask providers, except that it does not ask for the name of a workload's project.

    Nobody here needs that name, and where a firewall lets only some of Google's services through, asking fails.
    """

    def __init__(self) -> None:
        from google.auth.transport.requests import Request

        self._ask: Any = Request()
        self.session = self._ask.session
        """google-auth adds the certificates of a machine's metadata server to it."""

    def __call__(self, url: str, *arguments: Any, **named: Any) -> Any:
        if url.startswith(_PROJECTS):
            return SimpleNamespace(status=404, headers={}, data=b"{}")
        return self._ask(url, *arguments, **named)


class GcsCredentials:
    """google-auth's credentials, which are refreshed when they are about to expire. Thread-safe.

    Args:
        config: the settings.

    Raises:
        Exception: google-auth's own, if it finds none, or a file cannot be used.
    """

    def __init__(self, config: GcsConfig) -> None:
        import google.auth

        self._lock = threading.Lock()
        self._ask: Final = _Providers()
        self._found: Any
        if config.credential_file:
            with warnings.catch_warnings():
                # It warns of files from strangers. This one is the user's own choice, of whichever kind.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._found, _ = google.auth.load_credentials_from_file(
                    config.credential_file, scopes=[_SCOPE], request=self._ask
                )
        else:
            self._found, _ = google.auth.default(scopes=[_SCOPE], request=cast("Any", self._ask))

    def token(self) -> Secret:
        """Return a token that is valid for some minutes at least. It may ask a provider for a new one.

        Raises:
            Exception: google-auth's own, if the provider gives none.
        """
        with self._lock:
            if not self._found.valid:
                self._found.refresh(self._ask)
            return Secret(self._found.token)

    @property
    def held(self) -> Secret:
        """The current token; "" for none."""
        return Secret(self._found.token or "")


@dataclass(frozen=True, slots=True)
class GcsAccess:
    """The transport and credentials for requests to the service."""

    transport: Transport
    endpoint: str
    """URL of the service, without a final slash."""
    setup: SetupClock
    credentials: GcsCredentials | None = field(repr=False)
    """None for anonymous requests."""

    @property
    def secrets(self) -> Collection[str]:
        """Texts to redact in messages."""
        return () if self.credentials is None or not self.credentials.held else (self.credentials.held,)

    def headers(self, url: str) -> Mapping[str, str]:  # noqa: ARG002 - every URL is one of the service
        """Return the headers of a request to the service itself.

        Raises:
            Exception: as `GcsCredentials.token`.
        """
        if self.credentials is None:
            return {}
        return {"Authorization": Secret(f"Bearer {self.credentials.token()}")}

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()


def endpoint_of(config: GcsConfig) -> str:
    """Return the URL of the service, or of an emulator, without a final slash."""
    endpoint = (config.emulator or USUAL_ENDPOINT).rstrip("/")
    return endpoint if "://" in endpoint else f"http://{endpoint}"


def make_gcs_access(config: LoadConfig, setup: SetupClock) -> GcsAccess:
    """Make the access. An emulator (STORAGE_EMULATOR_HOST) is asked without credentials, unless a file is named.

    Raises:
        MissingDependencyError: google-auth is not installed, or there is no libcurl.
        Exception: as `GcsCredentials`.
    """
    settings = config.gcs
    endpoint = endpoint_of(settings)
    transport = make_transport(config, "gs://")
    if settings.anonymous or (settings.emulator and not settings.credential_file):
        return GcsAccess(transport, endpoint, setup, None)
    try:
        import google.auth.transport.requests  # noqa: F401 - all that will be needed
    except ImportError as error:
        transport.close()
        raise MissingDependencyError(
            "reading from gs:// needs google-auth",
            remedy=f"{install_command('gcs')}; a public bucket needs none: "
            "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS=1",
            sep=": ",
        ) from error
    return GcsAccess(transport, endpoint, setup, GcsCredentials(settings))
