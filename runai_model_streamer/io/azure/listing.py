"""Lists the blobs under a prefix of a container."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote

from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.azure.access import AzureAccess
from runai_model_streamer.io.azure.account import Account
from runai_model_streamer.io.azure.location import BlobLocation
from runai_model_streamer.io.azure.remote import ContainerPage
from runai_model_streamer.io.http.answers import Answer, AnswerError
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.listing import Folder, Item, Page, list_folder
from runai_model_streamer.io.objects.store import ObjectStore

_LARGEST: Final = 16 << 20
"""Maximum bytes of a page. 1000 blobs with the longest names and metadata take some 12 MB."""


def list_container(
    store: ObjectStore[AzureAccess],
    account: Account,
    location: BlobLocation,
    path: str,
    wanted: Wanted,
    *,
    recursive: bool,
) -> list[Entry]:
    """List the blobs under a prefix; see `list_folder`.

    Raises:
        NotFoundError: there is no such container, or no blob under the prefix.
        StreamerError: as `ObjectStore.open`.
    """
    query = {"prefix": location.key, "maxresults": "1000", "include": "metadata"}
    if not recursive:
        query["delimiter"] = "/"

    def fetch(access: AzureAccess, flight: Flight, token: str) -> Page:
        asked = query | ({"marker": token} if token else {})
        text, answer = ContainerPage(account, location.container, asked).ask_whole(access, flight, _LARGEST)
        return _page(text, answer)

    look = f"az storage blob list --account-name {account.name} --container-name {location.container}"
    folder = Folder(path, f"container {location.container}", location.key, location.url_of, lambda: look)
    return list_folder(store, folder, fetch, wanted, recursive=recursive)


def _page(text: bytes, answer: Answer) -> Page:
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        root = ET.Element("none")
    if root.tag != "EnumerationResults":
        remedy = "Check the account's endpoint, and any proxy in between."
        raise AnswerError(ReadError, "the answer is not a listing of Azure", remedy, answer)
    prefixes = root.find("Blobs/BlobPrefix") is not None
    return Page(tuple(_items(root)), prefixes, root.findtext("NextMarker") or None, answer)


def _items(root: ET.Element) -> Iterator[Item]:
    for blob in root.iterfind("Blobs/Blob"):
        if _is_folder(blob):
            continue
        name = blob.find("Name")
        key = None if name is None else name.text or ""
        # What XML cannot have in a name is percent-encoded, and so is the rest of that name.
        if key is not None and name is not None and name.get("Encoded", "").lower() == "true":
            key = unquote(key)
        size = blob.findtext("Properties/Content-Length", "")
        modified, etag = (blob.findtext(f"Properties/{field}", "") for field in ("Last-Modified", "Etag"))
        seconds = int(parsedate_to_datetime(modified).timestamp()) if modified else 0
        yield Item(key, int(size) if size.isdecimal() else None, modified_ns(seconds, etag))


def _is_folder(blob: ET.Element) -> bool:
    """Return whether a blob stands for a folder: that of a hierarchical namespace, or one that Hadoop has made."""
    folder = blob.findtext("Metadata/hdi_isfolder", "").lower() == "true"
    return folder or blob.findtext("Properties/ResourceType", "").lower() == "directory"
