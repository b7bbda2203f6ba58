"""Parses https:// and http:// URLs."""

from typing import Final
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from runai_model_streamer.errors import ArgumentError, IsDirectoryError
from runai_model_streamer.io.secret import Link

_SENT_AS_WRITTEN: Final = "!#$%&'()*+,/:;=?@[]~"
"""Characters of a path or query that are not percent-encoded. With %, encoded characters stay as they are."""


def file_url(url: str) -> Link:
    """Return the URL to request for a file. Characters that a request may not have are percent-encoded.

    Raises:
        ArgumentError: the URL has no host, an unusable port, or a user.
        IsDirectoryError: the URL names no file.
    """
    parts = _split(url)
    if not parts.path.strip("/") or parts.path.endswith("/"):
        raise IsDirectoryError(
            "a folder's URL, not a file's", where=url, remedy="name one file; list_safetensors lists them", sep=": "
        )
    return Link(urlunsplit(parts))


def folder_url(url: str) -> Link:
    """Return the URL of a folder, with a final slash.

    Raises:
        ArgumentError: the URL has no host, an unusable port, a user, or a query.
    """
    parts = _split(url)
    if parts.query:
        raise ArgumentError("a folder's URL has no query", where=url, remedy="sign the URL of each file instead")
    return Link(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/")))


def _split(url: str) -> SplitResult:
    parts = _parsed(url)
    if parts is None or not parts.hostname:
        raise ArgumentError("not a URL of a file", where=url, remedy="write https://host/path/model.safetensors")
    if "@" in parts.netloc:
        raise ArgumentError(
            "a URL may not have a user or password, which logs would show",
            where=url,
            remedy="put them into ~/.netrc: machine HOST login USER password PASSWORD",
        )
    path, query = (quote(text, safe=_SENT_AS_WRITTEN) for text in (parts.path, parts.query))
    return SplitResult(parts.scheme, parts.netloc, path, query, "")


def _parsed(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def same_origin(one: str, other: str) -> bool:
    """Return whether credentials for one URL may go to the other: the same host, port and scheme.

    From http://host to https://host, at their usual ports, counts as the same.
    """
    # Without the queries, which may sign: a traceback shows the variables of this frame.
    first, second = (urlsplit(url.partition("?")[0]) for url in (one, other))
    if first.hostname != second.hostname:
        return False
    ways = tuple((each.scheme, each.port or {"http": 80, "https": 443}.get(each.scheme)) for each in (first, second))
    return ways[0] == ways[1] or ways == (("http", 80), ("https", 443))
