"""Lists the objects under a prefix of any store, page by page."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from runai_model_streamer.errors import NotFoundError, ReadError
from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.requests import A
from runai_model_streamer.io.objects.store import ObjectStore

MAX_PAGES: Final = 10_000
"""Maximum pages of a listing, most of them of 1000 keys. No model has that many, and a faulty store may never end."""


class Item(NamedTuple):
    """An object of a page. None is what the store did not say."""

    key: str | None
    size: int | None
    modified_ns: int


class Page(NamedTuple):
    """What a store answers to one request."""

    items: Sequence[Item]
    folders: bool
    """There are keys in folders below the prefix, which are not listed."""
    next_token: str | None
    """Asks for the next page; None after the last."""
    answer: Answer | None = None


class Folder(NamedTuple):
    """The prefix to list."""

    path: str
    """Its URL, as the user wrote it."""
    container: str
    """What holds the keys, for messages: `bucket models`."""
    prefix: str
    """The beginning of the keys; "" for all, else with a final slash."""
    url_of: Callable[[str], str]
    """Key -> URL."""
    look: Callable[[], str]
    """Returns a command that lists it, for messages."""


def list_folder(
    store: ObjectStore[A],
    folder: Folder,
    fetch: Callable[[A, Flight, str], Page],
    wanted: Wanted,
    *,
    recursive: bool,
    max_pages: int = MAX_PAGES,
) -> list[Entry]:
    """List the objects under a prefix, sorted by name. Each page costs one request, one after another.

    The prefix is a folder's name: `model/` does not list `model2/config.json`. Keys that end in a slash represent
    folders, and are not listed.

    Args:
        store: asks again after failures.
        folder: the prefix.
        fetch: requests the page of a token, the first for "".
        wanted: chooses names below the prefix.
        recursive: whether to list what is in folders below it.
        max_pages: a listing with more does not end.

    Raises:
        NotFoundError: no key has the prefix.
        ReadError: the answers are no listing of it.
        StreamerError: as `ObjectStore.open`.
    """
    found = not folder.prefix
    entries: list[Entry] = []
    pages: list[Page] = []
    tokens = [""]

    def attempt(access: A, flight: Flight) -> None:
        pages.append(fetch(access, flight, tokens[-1]))

    flights = store.flights()
    try:
        while True:
            store.retry(flights, folder.path, None, attempt)
            page = pages.pop()
            found = found or bool(page.items) or page.folders
            entries += _entries(page, folder, wanted, recursive)
            if page.next_token is None:
                break
            if not page.next_token:
                what = f"page {len(tokens)} of its listing is not the last one, and names no next one"
                raise unfit(folder.path, what, page.answer)
            if page.next_token in tokens:
                what = f"its listing does not end: page {len(tokens)} leads back to an earlier one"
                raise unfit(folder.path, what, page.answer)
            if len(tokens) > max_pages:
                what = f"its listing does not end: it has more than {max_pages} pages"
                raise unfit(folder.path, what, page.answer)
            tokens.append(page.next_token)
    finally:
        store.forget(flights)
    if not found:
        raise NotFoundError(
            f"{folder.container} has no key that begins with {folder.prefix!r}",
            where=folder.path,
            remedy=f"Check it; case, spaces and slashes count: {folder.look()} (if it is an object, stream_file takes "
            "it)",
            sep=". ",
        )
    return sorted(entries, key=lambda entry: entry.name)


def _entries(page: Page, folder: Folder, wanted: Wanted, recursive: bool) -> Iterator[Entry]:
    for item in page.items:
        if item.key is None:
            raise unfit(folder.path, "an entry has no key", page.answer)
        name = item.key.removeprefix(folder.prefix)
        if not item.key.startswith(folder.prefix) or (not recursive and "/" in name.removesuffix("/")):
            raise unfit(folder.path, f"asked for keys under {folder.prefix!r}, it sent {item.key!r}", page.answer)
        if name and not name.endswith("/") and wanted(name):
            if item.size is None:
                raise unfit(folder.path, f"the entry of {item.key!r} has no size", page.answer)
            yield Entry(folder.url_of(item.key), name, item.size, item.modified_ns)


def unfit(path: str, what: str, answer: Answer | None) -> ReadError:
    """Make the error for an answer that is no listing of the prefix."""
    said = f" ({answer})" if answer is not None else ""
    remedy = "Check the endpoint, and any cache or proxy in between. If both are right, ask the store's operator."
    return ReadError(f"the store cannot be listed: {what}{said}", where=path, remedy=remedy, sep=". ")
