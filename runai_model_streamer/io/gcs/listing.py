"""Lists the objects under a prefix of a bucket."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from runai_model_streamer.io.gcs.access import GcsAccess
from runai_model_streamer.io.gcs.remote import ask_api
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.listing import Folder, Item, Page, list_folder
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import ObjectStore

_FIELDS: Final = "items(name,size,updated,etag,generation),prefixes,nextPageToken"


def list_bucket(store: ObjectStore[GcsAccess], path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
    """List the objects under gs://bucket/prefix; see `list_folder`.

    Raises:
        ArgumentError: not a URL of this form.
        NotFoundError: there is no such bucket, or no key under the prefix.
        StreamerError: as `ObjectStore.open`.
    """
    bucket, prefix = Location.of_prefix(path, "gs")
    query = {"prefix": prefix, "maxResults": "1000", "fields": _FIELDS} | ({} if recursive else {"delimiter": "/"})

    def fetch(access: GcsAccess, flight: Flight, token: str) -> Page:
        asked = query | ({"pageToken": token} if token else {})
        page, answer = ask_api(access, flight, access.endpoint, f"/storage/v1/b/{quote(bucket)}/o", asked)
        items = tuple(map(_item, page.get("items", ())))
        return Page(items, bool(page.get("prefixes")), page.get("nextPageToken") or None, answer)

    look = f"gcloud storage ls gs://{bucket}/"
    folder = Folder(path, f"bucket {bucket}", prefix, lambda key: f"gs://{bucket}/{key}", lambda: look)
    return list_folder(store, folder, fetch, wanted, recursive=recursive)


def _item(about: Mapping[str, Any]) -> Item:
    identity = str(about.get("generation") or about.get("etag") or "")
    updated = str(about.get("updated", ""))
    seconds = int(datetime.fromisoformat(updated).timestamp()) if updated else 0
    size = str(about.get("size", ""))
    return Item(about.get("name"), int(size) if size.isdecimal() else None, modified_ns(seconds, identity))
