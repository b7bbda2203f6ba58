"""Parses URLs of blobs: az://container/key, and https://account.blob.core.windows.net/container/key."""

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from runai_model_streamer.errors import ArgumentError, IsDirectoryError

_SCHEME: Final = "az://"
_SERVICE: Final = re.compile(
    r"(https://[a-z0-9-]+(?:\.z\d+)?\.blob\.(?:core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)|storage\.azure\.net))"
    r"(?::443)?(?:/([^?#]*))?",
    re.IGNORECASE,
)
"""URLs in Azure's clouds: the account's endpoint, and the path. A URL with a query, which may sign it, is none."""


class BlobLocation(NamedTuple):
    """A container, and a key or prefix in it."""

    endpoint: str
    """URL of the account, without a final slash; "" for that of the settings."""
    container: str
    key: str

    @classmethod
    def of(cls, url: str) -> "BlobLocation":
        """Parse a URL of either form. Parts that it lacks are empty."""
        service = _SERVICE.fullmatch(url)
        if service is None:
            container, _, key = url.removeprefix(_SCHEME).partition("/")
            return cls("", container, key)
        container, _, key = (service[2] or "").partition("/")
        return cls(service[1].lower(), unquote(container), unquote(key))

    @classmethod
    def of_object(cls, url: str) -> "BlobLocation":
        """Parse the URL of a blob.

        Raises:
            ArgumentError: it names none.
            IsDirectoryError: the key ends in a slash.
        """
        location = cls.of(url)
        if not location.container or not location.key:
            remedy = f"write {location.example}/container/key; list_safetensors lists them"
            raise ArgumentError(f"{url!r} does not name an object", where=url, lead=None, remedy=remedy, sep=": ")
        if location.key.endswith("/"):
            remedy = "name one file; list_safetensors lists them"
            raise IsDirectoryError("a prefix of keys, not an object", where=url, remedy=remedy, sep=": ")
        return location

    @classmethod
    def of_prefix(cls, url: str) -> "BlobLocation":
        """Parse the URL of a container or of a prefix in it. The prefix gets a final slash if it has none.

        Raises:
            ArgumentError: it names no container.
        """
        location = cls.of(url)
        if not location.container:
            remedy = f"write {location.example}/container or {location.example}/container/prefix"
            raise ArgumentError(f"{url!r} does not name a container", where=url, lead=None, remedy=remedy, sep=": ")
        key = location.key
        return location._replace(key=key if not key or key.endswith("/") else f"{key}/")

    @property
    def example(self) -> str:
        """The beginning of a URL of this form."""
        return self.endpoint or "az:/"

    def url_of(self, key: str) -> str:
        """Return the URL of another key of the container, in the same form."""
        if self.endpoint:
            return f"{self.endpoint}/{quote(self.container)}/{quote(key)}"
        return f"{_SCHEME}{self.container}/{key}"


def is_blob_url(url: str) -> bool:
    """Return whether an https:// URL names Azure Blob Storage, and is not signed."""
    return _SERVICE.fullmatch(url) is not None
