"""Lists the objects under a prefix of a bucket."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from runai_model_streamer.errors import NotFoundError, ReadError
from runai_model_streamer.io.gcs.access import GcsAccess
from runai_model_streamer.io.gcs.remote import ask_api
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import ObjectStore

_MOST_PAGES: Final = 10_000
"""Maximum pages of a listing, most of them of 1000 keys. No model has that many, and a faulty store may never end."""

_FIELDS: Final = "items(name,size,updated,etag,generation),prefixes,nextPageToken"


def list_bucket(store: ObjectStore[GcsAccess], path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
    """List the objects under gs://bucket/prefix, sorted by name. Each 1000 or so cost one request, one after another.

    The prefix is a folder's name, with or without a final slash. Keys that end in a slash represent folders, and are
    not listed.

    Raises:
        ArgumentError: not a URL of this form.
        NotFoundError: there is no such bucket, or no key under the prefix.
        StreamerError: as `ObjectStore.open`.
    """
    bucket, prefix = Location.of_prefix(path, "gs")
    query = {"prefix": prefix, "maxResults": "1000", "fields": _FIELDS} | ({} if recursive else {"delimiter": "/"})
    found = not prefix
    entries: list[Entry] = []
    pages: list[Mapping[str, Any]] = []
    tokens: set[str] = set()

    def fetch_page(access: GcsAccess, flight: Flight) -> None:
        pages.append(ask_api(access, flight, access.endpoint, f"/storage/v1/b/{quote(bucket)}/o", query)[0])

    flights = store.flights()
    try:
        while True:
            store.retry(flights, path, None, fetch_page)
            page = pages.pop()
            found = found or bool(page.get("items") or page.get("prefixes"))
            entries += _entries(page, bucket, prefix, wanted, recursive)
            token = page.get("nextPageToken")
            if not token:
                break
            if token in tokens or len(tokens) == _MOST_PAGES:
                raise ReadError(f"the listing does not end (page {len(tokens) + 1})", where=path)
            tokens.add(token)
            query["pageToken"] = token
    finally:
        store.forget(flights)
    if not found:
        raise NotFoundError(
            f"bucket {bucket} has no key that begins with {prefix!r}",
            where=path,
            remedy=f"Check it; case, spaces and slashes count: gcloud storage ls gs://{bucket}/ (if it is an object, "
            "stream_file takes it)",
            sep=". ",
        )
    return sorted(entries, key=lambda entry: entry.name)


def _entries(page: Mapping[str, Any], bucket: str, prefix: str, wanted: Wanted, recursive: bool) -> Iterator[Entry]:
    for item in page.get("items", ()):
        key = str(item["name"])
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or (not recursive and "/" in name):
            continue
        if name and not name.endswith("/") and wanted(name):
            identity = str(item.get("generation") or item.get("etag") or "")
            yield Entry(f"gs://{bucket}/{key}", name, int(item.get("size", 0)), _modified_ns(item, identity))


def _modified_ns(item: Mapping[str, Any], identity: str) -> int:
    updated = str(item.get("updated", ""))
    seconds = int(datetime.fromisoformat(updated).timestamp()) if updated else 0
    return modified_ns(seconds, identity)
