"""Makes the access to the Hugging Face Hub: huggingface_hub's token, endpoint and cache, and libcurl."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import MissingDependencyError
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.access import make_transport


@dataclass(frozen=True, slots=True)
class HubAccess:
    """The transport, token, endpoint and cache for requests to the Hub."""

    transport: Transport
    endpoint: str
    """URL of the Hub, without a final slash."""
    cache: str
    """Folder of huggingface_hub's cache."""
    setup: SetupClock
    token: Secret | None = field(repr=False)

    @property
    def secrets(self) -> Collection[str]:
        """Texts to redact in messages."""
        return (self.token,) if self.token else ()

    def headers(self, url: str) -> Mapping[str, str]:  # noqa: ARG002 - every URL is one of the Hub's
        """Return the headers of a request to the Hub itself."""
        return {"Authorization": Secret(f"Bearer {self.token}")} if self.token else {}

    def api(self) -> Any:
        """Return huggingface_hub's client."""
        from huggingface_hub import HfApi

        # False means no token; None would let huggingface_hub look for one.
        return HfApi(endpoint=self.endpoint, token=self.token or False)

    def cached(self, repo: str, revision: str, name: str) -> str | None:
        """Return the path of a file in huggingface_hub's cache; None if it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, name, cache_dir=self.cache, revision=revision)
        return found if isinstance(found, str) else None

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()


def make_hub_access(config: LoadConfig, setup: SetupClock) -> HubAccess:
    """Make the access to the Hub.

    Raises:
        MissingDependencyError: huggingface_hub is not installed, or there is no libcurl.
    """
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        raise MissingDependencyError(
            "reading from hf:// needs huggingface_hub", remedy=install_command("hub"), sep=": "
        ) from error
    implicit = not getattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    return HubAccess(
        transport=make_transport(config, "hf://"),
        endpoint=(config.hub.endpoint or constants.ENDPOINT).rstrip("/"),
        cache=config.hub.cache or str(constants.HF_HUB_CACHE),
        setup=setup,
        # Do not put the plain token into a variable: a traceback would show it.
        token=Secret(get_token() or "") or None if implicit else None,
    )
