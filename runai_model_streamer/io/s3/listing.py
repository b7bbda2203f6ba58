"""Lists the objects under a prefix."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from runai_model_streamer.errors import NotFoundError, ReadError
from runai_model_streamer.io.http.flights import Flights
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import ObjectStore
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.errors.store import answer_in

_MAX_PAGES: Final = 10_000
"""Maximum pages of a listing, most of them of 1000 keys. No model has that many, and a faulty store may never end."""


def list_objects(
    store: ObjectStore[Access], path: str, wanted: Wanted, *, recursive: bool, max_pages: int = _MAX_PAGES
) -> list[Entry]:
    """List the objects under s3://bucket/prefix, sorted by name. Each 1000 or so cost one request, one after another.

    The prefix is a folder's name, with or without a final slash: `model` does not list `model2/config.json`. Keys that
    end in a slash represent folders, and are not listed.

    Raises:
        ArgumentError: not a URL of this form.
        NotFoundError: there is no such bucket, or no key under the prefix.
        StreamerError: what `ObjectSource.read_into` raises, and errors of settings and credentials.
    """
    bucket, prefix = Location.of_prefix(path)
    flights = Flights()
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if not recursive:
        request["Delimiter"] = "/"
    found = not prefix
    entries: list[Entry] = []
    pages: list[dict[str, Any]] = []
    tokens: set[str] = set()

    def fetch_page(access: Access, _: object) -> None:
        pages.append(access.client.list_objects_v2(**request))

    while True:
        store.retry(flights, path, None, fetch_page)
        page = pages.pop()
        found = found or bool(page.get("Contents") or page.get("CommonPrefixes"))
        entries += _entries(page, path, bucket, prefix, wanted, recursive)
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated", token):
            break
        if not token or token in tokens or len(tokens) == max_pages:
            raise _unfit(page, path, f"its listing does not end (page {len(tokens) + 1})")
        tokens.add(token)
        request["ContinuationToken"] = token
    if not found:
        raise NotFoundError(
            f"bucket {bucket} has no key that begins with {prefix!r}",
            where=path,
            remedy=f"Check it; case, spaces and slashes count: {store.access().provenance.list_command(bucket)} "
            "(if it is an object, stream_file takes it)",
            sep=". ",
        )
    return sorted(entries, key=lambda entry: entry.name)


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


def _entries(
    page: Mapping[str, Any], path: str, bucket: str, prefix: str, wanted: Wanted, recursive: bool
) -> Iterator[Entry]:
    for item in page.get("Contents", ()):
        key = item.get("Key")
        if key is None:
            raise _unfit(page, path, "an entry has no Key")
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or (not recursive and "/" in name.removesuffix("/")):
            raise _unfit(page, path, f"asked for keys under {prefix!r}, it sent {key!r}")
        if name and not name.endswith("/") and wanted(name):
            if "Size" not in item:
                raise _unfit(page, path, f"the entry of {key!r} has no Size")
            yield Entry(f"s3://{bucket}/{key}", name, int(item["Size"]), _modified_ns(item))


def _modified_ns(item: Mapping[str, Any]) -> int:
    # A few stores omit the time.
    seconds = int(item["LastModified"].timestamp()) if "LastModified" in item else 0
    return modified_ns(seconds, str(item.get("ETag", "")))


def _unfit(page: Mapping[str, Any], path: str, what: str) -> ReadError:
    return ReadError(
        f"the store cannot be listed: {what} ({answer_in(page)})", where=path, remedy="Check the endpoint.", sep=". "
    )
