"""Opens and lists blobs of Azure Blob Storage."""

from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.azure.access import AzureAccess, make_azure_access
from runai_model_streamer.io.azure.account import Account, account_at, account_of
from runai_model_streamer.io.azure.errors import ANONYMOUS_STATUSES, Asked, explain_azure
from runai_model_streamer.io.azure.listing import list_container
from runai_model_streamer.io.azure.location import BlobLocation
from runai_model_streamer.io.azure.remote import Blob
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.base import HttpStore
from runai_model_streamer.io.web.refusal import RefusedError


class AzureStore(HttpStore[AzureAccess]):
    """Blobs named az://container/key, in the account of the settings, or by their https:// URL.

    Args:
        config: the settings.
        setup: times imports and connecting.
    """

    upload = " (upload it with azcopy copy --put-md5)"

    def __init__(self, config: LoadConfig, setup: SetupClock | None = None) -> None:
        super().__init__(make_azure_access, config, setup)
        self._config = config.azure

    @override
    def remote(self, path: str) -> Blob:
        location = BlobLocation.of_object(path)
        return Blob(self._account(location, path), location)

    @override
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        location = BlobLocation.of_prefix(path)
        account = self._account(location, path)
        return list_container(self, account, location, path, wanted, recursive=recursive)

    @override
    def key_of(self, path: str) -> str:
        return BlobLocation.of_prefix(path).key

    @override
    def known_endpoint(self, path: str) -> str | None:
        location, named = BlobLocation.of(path), account_of(self._config)
        return account_at(location, named, path).endpoint if location.endpoint or named is not None else None

    @override
    def judge(self, error: Exception) -> Judgement:
        judgement = super().judge(error)
        # A token that ran out, or a provider that failed for a moment: look for credentials again, once.
        again = isinstance(error, RefusedError) and (error.status == 401 if error.authorized else self._lacks(error))
        return Judgement(judgement.words, renew=True, answered=True) if again else judgement

    def _lacks(self, refused: RefusedError) -> bool:
        """Return whether an anonymous request was refused although credentials are searched for."""
        config = self._config
        searched = not (config.anonymous or config.key or config.sas or config.connection_string)
        # Of a container that is public the service says what is missing.
        public = refused.answer.code in ("BlobNotFound", "ContainerNotFound")
        return searched and not public and refused.status in ANONYMOUS_STATUSES

    @override
    def url(self, path: str, access: AzureAccess | None) -> str:
        return self._account(BlobLocation.of(path), path).endpoint

    @override
    def explain(self, refused: RefusedError, path: str, access: AzureAccess | None) -> Explanation | None:
        if access is None:
            return None
        location = BlobLocation.of(path)
        return explain_azure(refused, Asked(location, self._account(location, path), access))

    def _account(self, location: BlobLocation, path: str) -> Account:
        return account_at(location, account_of(self._config), path)
