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
    _check(url)
    if urlsplit(url).path.endswith("/") or not urlsplit(url).path:
        raise IsDirectoryError(
            "a folder's URL, not a file's", where=url, remedy="name one file; list_safetensors lists them", sep=": "
        )
    return Link(urlunsplit(_split(url)))


def folder_url(url: str) -> Link:
    """Return the URL of a folder, with a final slash.

    Raises:
        ArgumentError: the URL has no host, an unusable port, a user, or a query.
    """
    _check(url)
    if urlsplit(url).query:
        raise ArgumentError("a folder's URL has no query", where=url, remedy="sign the URL of each file instead")
    parts = _split(url)
    return Link(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/")))


def _check(url: str) -> None:
    # No parts of the URL in variables: error reporters would show them.
    if not _has_host(url):
        raise ArgumentError("not a URL of a file", where=url, remedy="write https://host/path/model.safetensors")
    if "@" in urlsplit(url).netloc:
        raise ArgumentError(
            "a URL may not have a user or password, which logs would show",
            where=url,
            remedy="put them into ~/.netrc: machine HOST login USER password PASSWORD",
        )


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    path, query = (quote(text, safe=_SENT_AS_WRITTEN) for text in (parts.path, parts.query))
    return SplitResult(parts.scheme, parts.netloc, path, query, "")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname)


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
