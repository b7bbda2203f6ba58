"""The blobs and listings of a container, as files of a web server."""

from urllib.parse import quote, urlencode

from runai_model_streamer.io.azure.account import Account
from runai_model_streamer.io.azure.location import BlobLocation
from runai_model_streamer.io.secret import Link
from runai_model_streamer.io.web.remote import WebObject


class Blob(WebObject):
    """A blob, read as a file of a web server.

    Args:
        account: the account that it is in.
        location: its container and key.
    """

    def __init__(self, account: Account, location: BlobLocation) -> None:
        path = f"{quote(location.container)}/{quote(location.key)}"
        super().__init__(Link(f"{account.endpoint}/{path}{'?' if account.sas else ''}{account.sas}"))


class ContainerPage(WebObject):
    """A page of a container's listing.

    Args:
        account: the account that it is in.
        container: its name.
        query: what to list.
    """

    def __init__(self, account: Account, container: str, query: dict[str, str]) -> None:
        asked = urlencode({"restype": "container", "comp": "list", **query}, quote_via=quote)
        super().__init__(
            Link(f"{account.endpoint}/{quote(container)}?{asked}{'&' if account.sas else ''}{account.sas}")
        )
