"""What all stores share that refuse requests with plain HTTP answers: how failures are judged and explained."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.store import FailedRequest, ObjectStore
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web import errors
from runai_model_streamer.io.web.refusal import RefusedError
from runai_model_streamer.io.web.remote import Access

W = TypeVar("W", bound=Access)


class HttpStore(ObjectStore[W]):
    """A store whose files are read as those of a web server; see `WebObject`.

    Args:
        make: makes the access.
        config: the settings.
        setup: times imports and connecting.
    """

    def __init__(
        self, make: Callable[[LoadConfig, SetupClock], W], config: LoadConfig, setup: SetupClock | None
    ) -> None:
        clock = setup or SetupClock()
        super().__init__(lambda: make(config, clock), config.s3.max_retries, clock)
        self._timeout = config.s3.timeout

    @abstractmethod
    def url(self, path: str, access: W | None) -> str:
        """Return the URL that requests for a path begin with, for its scheme; "" if it is not known yet."""

    def explain(self, refused: RefusedError, path: str, access: W | None) -> Explanation | None:  # noqa: ARG002 - of stores that know more
        """Explain a refusal if the store knows more about it than its status says; else return None."""
        return None

    @override
    def judge(self, error: Exception) -> Judgement:
        return errors.judge(error)

    @override
    def translated(self, error: Exception, failed: FailedRequest[W]) -> Exception:
        plain = self.url(failed.path, failed.access).startswith("http://")
        way = errors.way_to(self._timeout, opening=failed.opening, plain=plain)
        return errors.translated(error, failed, way, lambda refused: self.explain(refused, failed.path, failed.access))
