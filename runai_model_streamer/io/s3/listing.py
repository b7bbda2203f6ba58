"""Lists the objects under a prefix."""

from collections.abc import Mapping
from typing import Any

from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.listing import MAX_PAGES, Folder, Item, Page, list_folder
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import ObjectStore
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.errors.store import answer_in


def list_objects(
    store: ObjectStore[Access], path: str, wanted: Wanted, *, recursive: bool, max_pages: int = MAX_PAGES
) -> list[Entry]:
    """List the objects under s3://bucket/prefix; see `list_folder`.

    Raises:
        ArgumentError: not a URL of this form.
        NotFoundError: there is no such bucket, or no key under the prefix.
        StreamerError: what `ObjectSource.read_into` raises, and errors of settings and credentials.
    """
    bucket, prefix = Location.of_prefix(path)
    request = {"Bucket": bucket, "Prefix": prefix} | ({} if recursive else {"Delimiter": "/"})

    def fetch(access: Access, _: Flight, token: str) -> Page:
        page = access.client.list_objects_v2(**request, **({"ContinuationToken": token} if token else {}))
        items = tuple(map(_item, page.get("Contents", ())))
        following = page.get("NextContinuationToken", "")
        more = page.get("IsTruncated", following)
        return Page(items, bool(page.get("CommonPrefixes")), following if more else None, answer_in(page))

    folder = Folder(
        path,
        f"bucket {bucket}",
        prefix,
        lambda key: f"s3://{bucket}/{key}",
        lambda: store.access().provenance.list_command(bucket),
    )
    return list_folder(store, folder, fetch, wanted, recursive=recursive, max_pages=max_pages)


def has_keys(store: ObjectStore[Access], path: str) -> bool:
    """Whether s3://bucket/prefix has any key. It makes one request.

    Raises:
        ArgumentError: not a URL of this form.
        NotFoundError: there is no such bucket.
        StreamerError: as `list_objects`.
    """
    bucket, prefix = Location.of_prefix(path)
    pages: list[dict[str, Any]] = []

    def fetch_page(access: Access, _: object) -> None:
        pages.append(access.client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1))

    store.retry(Flights(), path, None, fetch_page)
    return bool(pages[-1].get("Contents"))


def _item(about: Mapping[str, Any]) -> Item:
    # A few stores omit the time.
    seconds = int(about["LastModified"].timestamp()) if "LastModified" in about else 0
    size = int(about["Size"]) if "Size" in about else None
    return Item(about.get("Key"), size, modified_ns(seconds, str(about.get("ETag", ""))))
