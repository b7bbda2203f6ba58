"""Checks paths and URLs, and tells files from objects."""

import logging
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote

from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from runai_model_streamer.io.secret import Link, veiled, without_queries, without_secrets
from runai_model_streamer.origins import SourceKind

_log = logging.getLogger(__name__)

_T_co = TypeVar("_T_co", covariant=True)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_PATTERN: Final = re.compile(r"[*?[]")
_SINGLE_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/(?!/)")
_EXAMPLES: Final = {
    "s3": "s3://bucket/key",
    "gs": "gs://bucket/key",
    "az": "az://container/key",
    "https": "https://host/path",
    "http": "http://host/path",
    "hf": "hf://org/model",
}
"""Schemes of the URLs that `Storage` opens as objects, each with what such a URL is like."""
_KNOWN: Final = f"{', '.join((*_EXAMPLES.values(), 'file:///path'))}"


class Several(Protocol[_T_co]):
    """A list, tuple or set. Type checkers reject a `str`, which would be a collection of its characters."""

    def __contains__(self, value: object, /) -> bool:
        """Accept any object, while `str.__contains__` accepts only a str."""
        ...

    def __iter__(self) -> Iterator[_T_co]:
        """Iterate over the items."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...


class Ordered(Several[_T_co], Protocol[_T_co]):
    """A list or tuple, but not a `str`."""

    def __getitem__(self, index: int, /) -> _T_co:
        """Return the item at this index."""
        ...


def as_path(path: str | os.PathLike[str]) -> str:
    """Return `path` as text.

    Raises:
        ArgumentTypeError: it is neither a str nor an os.PathLike of one.
        ArgumentError: it is empty, or has characters that a path cannot have.
        UnsupportedError: it is a URL of unsupported storage.
    """
    path = veiled(path)
    text: object = veiled(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        shown = without_queries(repr(path))
        raise ArgumentTypeError(f"a path is a str or os.PathLike, not {type(path).__name__}: {shown}")
    if not text:
        raise ArgumentError("a path is empty", remedy=f"give a file's path or a URL ({_KNOWN})")
    if "\0" in text or not _is_encodable(text):
        raise ArgumentError(f"a path has a character that no path can have: {without_secrets(text)!r}")
    single = _SINGLE_SLASH.match(text)
    if single and single[1] in _EXAMPLES:
        raise ArgumentError(
            f"a URL has two slashes, {_EXAMPLES[single[1]]}",
            where=text,
            remedy="pathlib drops one, so pass it as a str",
        )
    if text[0].isspace() and _SCHEME.match(text.lstrip()):
        raise ArgumentError("a URL does not begin with white space", where=text)
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() == "file":
        return _path_of(text)
    if scheme and scheme[1] not in _EXAMPLES:
        what = f"{scheme[1]}:// URLs are not supported"
        raise UnsupportedError(what, where=text, remedy=f"give a local path or a URL: {_KNOWN}")
    return Link(text) if scheme and scheme[1].startswith("http") else text


def _path_of(url: str) -> str:
    """Return the path that a file:// URL means."""
    host, slash, rest = url.partition("://")[2].partition("/")
    if host not in ("", "localhost") or not rest:
        raise ArgumentError("a file:// URL has three slashes and a path, file:///models/llama", where=url)
    path = unquote(slash + rest, errors="surrogateescape")
    if "\0" in path:
        raise ArgumentError(f"a path has a character that no path can have: {path!r}")
    return path


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    """Return `text` with escapes for what UTF-8 cannot encode, since file names may not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_object(path: str) -> bool:
    """Return whether a path is an object's URL rather than a local path."""
    return scheme_of(path) in _EXAMPLES


def scheme_of(path: str) -> str:
    """Return the scheme of a URL; "" for a local path."""
    match = _SCHEME.match(path)
    return match[1] if match else ""


def without_query(path: str) -> str:
    """Return a web URL without its query; any other path as it is. The end of it names the file."""
    return path.partition("?")[0] if path.startswith(("https://", "http://")) else path


def divide(path: str) -> tuple[str, str]:
    """Return the folder or prefix of a path, and the name at its end; "" for a path that ends with a slash."""
    folder, name = posixpath.split(without_query(path))
    return folder or ".", name


def is_pattern(path: str) -> bool:
    """Return whether the name at the end is a pattern, as in `model/*.safetensors`, and not that of a local file."""
    name = divide(path)[1]
    web = path.startswith(("https://", "http://"))  # where ? begins a query, and brackets may be part of a name
    if not _PATTERN.search(name) or (web and "*" not in name):
        return False
    return is_object(path) or not os.path.lexists(path)


def kind_of(path: str) -> SourceKind:
    """Return the kind of source that `Storage.open` returns for a path."""
    return SourceKind.OBJECT if is_object(path) else SourceKind.FILE
