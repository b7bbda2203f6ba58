"""Finds a model's files on a web server, which has no listing: tries the usual names, and reads the model's index."""

import email.utils
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import quote

from runai_model_streamer.checkpoint.index import USUAL_INDEX, parse_index
from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.io.http.answers import total_size
from runai_model_streamer.io.http.flights import Flight, Flights
from runai_model_streamer.io.http.transport import Reply
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.source import ObjectSource
from runai_model_streamer.io.web.location import folder_url
from runai_model_streamer.io.web.remote import Access, WebObject
from runai_model_streamer.ranges import ByteRange

USUAL: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    USUAL_INDEX,
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Names of files that models of transformers may have."""

_LARGEST_INDEX: Final = 64 << 20
"""Maximum bytes read of an index. One of 100,000 tensors takes some 10 MB."""


class WebObjects(Protocol):
    """What a listing needs of its store; see `ObjectStore`."""

    def open(self, path: str) -> ObjectSource[Any]:
        """Open a file."""
        ...

    def remote(self, path: str) -> WebObject:
        """Return the file that a URL names."""
        ...

    def flights(self) -> Flights:
        """Return new flights."""
        ...

    def retry(
        self, flights: Flights, path: str, span: ByteRange | None, attempt: Callable[[Any, Flight], None]
    ) -> None:
        """Make attempts until one succeeds."""
        ...

    def forget(self, flights: Flights) -> None:
        """Drop flights that are over."""
        ...


def list_usual(store: WebObjects, path: str, wanted: Wanted) -> list[Entry]:
    """List the files with usual names below a folder's URL, and the shards that its index names, sorted by name.

    It makes one small request for each wanted name, one after another.

    Raises:
        ArgumentError: the URL has no host, or a query.
        NotFoundError: none of the names is there.
        StreamerError: as `ObjectStore.open`.
    """
    folder = folder_url(path)
    names = [*filter(wanted, USUAL), *filter(wanted, _shards(store, folder))]
    found = {name: reply for name in dict.fromkeys(names) if (reply := _probe(store, f"{folder}{quote(name)}"))}
    if not found and names:
        raise NotFoundError(
            f"none of the names that a model's files usually have is there ({', '.join(names[:3])} ...)",
            where=path,
            remedy="A web server cannot be listed: check the URL, or give those of the files",
            sep=". ",
        )
    return sorted(
        (Entry(f"{folder}{quote(name)}", name, *_about(reply)) for name, reply in found.items()),
        key=lambda entry: entry.name,
    )


def _shards(store: WebObjects, folder: str) -> list[str]:
    """Return the files that the index names; none without a usable index."""
    try:
        source = store.open(f"{folder}{USUAL_INDEX}")
    except NotFoundError:
        return []
    try:
        text = bytearray(min(source.size, _LARGEST_INDEX))
        source.read_into(0, memoryview(text))
        return sorted(parse_index(bytes(text)))
    except ValueError as error:
        if isinstance(error, OSError):
            raise  # a read that failed
        return []
    finally:
        source.close()


def _probe(store: WebObjects, url: str) -> Reply | None:
    """Request a file's first byte. Return the answer; None if there is no such file."""
    remote = store.remote(url)
    replies: list[Reply] = []

    def attempt(access: Access, flight: Flight) -> None:
        try:
            replies.append(remote.ask(access, flight, ByteRange(0, 1), memoryview(bytearray(1))))
        except Exception as error:
            if not remote.is_beyond_end(error):
                raise
            replies.append(Reply(200, {"content-length": "0"}))

    flights = store.flights()
    try:
        store.retry(flights, url, None, attempt)
    except NotFoundError:
        return None
    finally:
        store.forget(flights)
    return replies[-1]


def _about(reply: Reply) -> tuple[int, int]:
    """Return size and modification time."""
    said = reply.headers.get("last-modified", "")
    parsed = email.utils.parsedate_tz(said)
    seconds = 0 if parsed is None else int(email.utils.mktime_tz(parsed))
    return total_size(reply, ByteRange(0, 1)), modified_ns(seconds, reply.headers.get("etag", said))
