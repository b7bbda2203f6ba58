"""Opens and lists objects of Google Cloud Storage."""

from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.gcs.access import USUAL_ENDPOINT, GcsAccess, endpoint_of, make_gcs_access
from runai_model_streamer.io.gcs.errors import explain_gcs, explain_google, judge_google, of_google
from runai_model_streamer.io.gcs.listing import list_bucket
from runai_model_streamer.io.gcs.remote import GcsObject
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.translation import error_of
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import FailedRequest
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.base import HttpStore
from runai_model_streamer.io.web.refusal import RefusedError


class GcsStore(HttpStore[GcsAccess]):
    """Objects named gs://bucket/key. The key is used as written.

    Args:
        config: the settings.
        setup: times imports and connecting.
    """

    def __init__(self, config: LoadConfig, setup: SetupClock | None = None) -> None:
        super().__init__(make_gcs_access, config, setup)
        self._endpoint = endpoint_of(config.gcs)

    @override
    def remote(self, path: str) -> GcsObject:
        return GcsObject(self._endpoint, Location.of_object(path, "gs"))

    @override
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        return list_bucket(self, path, wanted, recursive=recursive)

    @override
    def key_of(self, path: str) -> str:
        return Location.of_prefix(path, "gs").key

    @override
    def known_endpoint(self, path: str) -> str:
        return "" if self._endpoint == USUAL_ENDPOINT else self._endpoint

    @override
    def judge(self, error: Exception) -> Judgement:
        if of_google(error):
            return judge_google(error)
        judgement = super().judge(error)
        # A token that ran out between two requests: read the credentials again, once.
        expired = isinstance(error, RefusedError) and error.status == 401 and error.authorized
        return Judgement(judgement.words, renew=True, answered=True) if expired else judgement

    @override
    def translated(self, error: Exception, failed: FailedRequest[GcsAccess]) -> Exception:
        if not of_google(error):
            return super().translated(error, failed)
        secrets = () if failed.access is None else failed.access.secrets
        return error_of(explain_google(error), error, failed.path, failed.span, failed.attempts, secrets)

    @override
    def url(self, path: str, access: GcsAccess | None) -> str:
        return "" if access is None else access.endpoint

    @override
    def explain(self, refused: RefusedError, path: str, access: GcsAccess | None) -> Explanation | None:
        return explain_gcs(refused, _named(path))


def _named(path: str) -> Location:
    bucket, _, key = path.removeprefix("gs://").partition("/")
    return Location(bucket, key)
