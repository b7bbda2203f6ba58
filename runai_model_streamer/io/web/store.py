"""Opens and lists files of web servers."""

from urllib.parse import unquote, urlsplit

from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.secret import without_secrets
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.access import WebAccess, make_web_access
from runai_model_streamer.io.web.base import HttpStore
from runai_model_streamer.io.web.listing import list_usual
from runai_model_streamer.io.web.location import file_url, folder_url
from runai_model_streamer.io.web.remote import WebObject


class WebStore(HttpStore[WebAccess]):
    """Files of any web server that serves ranges, named https://host/path. Messages omit the query of a signed URL.

    Args:
        config: the settings.
        setup: times imports and connecting.
    """

    def __init__(self, config: LoadConfig, setup: SetupClock | None = None) -> None:
        super().__init__(make_web_access, config, setup)

    @override
    def remote(self, path: str) -> WebObject:
        """Return the file of a URL."""
        return WebObject(file_url(path))

    @override
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """List the wanted files of a model by their usual names; see `list_usual`."""
        return list_usual(self, path, wanted)

    @override
    def key_of(self, path: str) -> str:
        """Return the path of a folder's URL."""
        return unquote(urlsplit(folder_url(path)).path).lstrip("/")

    @override
    def shown(self, path: str) -> str:
        """Return the URL without its query."""
        return without_secrets(path)

    @override
    def url(self, path: str, access: WebAccess | None) -> str:
        return path
